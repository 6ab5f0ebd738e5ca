"""Check that a Ray cluster can run a job, before the job starts.

Each process of the job must fit on one node. If there are several nodes, all must have the same
versions and be able to write to the output. A task on each node, which needs no CPU, checks
this. A local path passes only if every node sees a file that the driver wrote there, as on a shared
disk.
"""

import importlib.metadata
import logging
import platform
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import xrec
from xrec.cluster.connect import ensure_ray
from xrec.config import Processes, RayJobConfig, StorageConfig, Workers
from xrec.errors import ClusterError, StorageNotFoundError, XRecError
from xrec.storage import Kind, open_location

logger = logging.getLogger("xrec")

_ANSWER_SECONDS = 120.0
_LOST = exceptions.NodeDiedError, exceptions.TaskUnschedulableError, exceptions.WorkerCrashedError
_ADVICE: Mapping[str, str] = {
    "version": "install the same versions everywhere (one image, or make setup), or let the job "
    "bring its own: xrec submit --packages FILE",
    "unshared": "a local path must be on a disk that all nodes share; give an s3:// URI instead",
    "storage": "give every node access to it: by a role, by AWS_* variables (xrec submit passes "
    "them on), or by storage.* in the config",
}
Problem = tuple[str, str]
"""A key of `_ADVICE`, and what completes the sentence "the node at ADDRESS ..."."""


class Demand(NamedTuple):
    """The processes of a job: how many must run together, how many it asks for, and their size.

    `key` is the config key that sets `wanted`.
    """

    fewest: int
    wanted: int
    cpus: int
    gpus: int
    key: str


ONE_CPU = Demand(1, 1, 1, 0, "ray.num_cpus")


def demand_of_workers(workers: Workers) -> Demand:
    """Return the demand of a training job; with device=auto, workers can do without GPUs."""
    fewest, wanted, gpus = workers.fewest, workers.num_processes, workers.device == "cuda"
    return Demand(fewest, wanted, workers.cpus, int(gpus), "workers.num_processes")


def demand_of_actors(actors: Processes, gpus_per_actor: int) -> Demand:
    """Return the demand of a bulk job, for which one actor is enough."""
    gpus = gpus_per_actor if actors.device == "cuda" else 0
    return Demand(1, actors.num_processes, actors.cpus, gpus, "actors.num_processes")


@contextmanager
def ready_cluster(config: RayJobConfig, kind: Kind, *demands: Demand) -> Iterator[None]:
    """Run the `with` block on a Ray cluster that is checked to fit a job that makes `kind`."""
    with ensure_ray(config.ray):
        for demand in demands:
            check_cluster(demand, config.artifact(kind), config.storage)
        yield


def check_cluster(demand: Demand, output: str, storage: StorageConfig) -> None:
    """Raise ClusterError unless the cluster has room for `demand` and can write to `output`.

    The error reports what is wrong on which node, and what to do.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    check_room([node["Resources"] for node in nodes], demand)
    if len(nodes) > 1:
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes}
        _check_nodes(addresses, open_location(output, storage).uri, storage)


def _check_nodes(nodes: Mapping[str, str], output: str, storage: StorageConfig) -> None:
    """Check versions and storage on `nodes`, which maps node ids to addresses."""
    nonce = secrets.token_hex(8)
    file = open_location(output, storage) / f".xrec-preflight-{nonce}"
    file.write_bytes(nonce.encode())
    try:
        answers = []
        for node_id, address in nodes.items():
            on_node = NodeAffinitySchedulingStrategy(node_id, soft=False)
            task = ray.remote(probe).options(num_cpus=0, max_retries=0, scheduling_strategy=on_node)
            answers.append((address, task.remote(node_id, _versions(), output, storage, nonce)))
        problems = [
            (address, *problem) for address, ref in answers for problem in _get(address, ref)
        ]
    finally:
        file.delete()
    if problems:
        lines = [f"  the node at {address} {text}" for address, _, text in problems]
        kinds = {kind for _, kind, _ in problems}
        lines += ["what to do:", *(f"  {_ADVICE[kind]}" for kind in _ADVICE if kind in kinds)]
        raise ClusterError(
            "\n".join(["the cluster cannot run this job:", *lines]),
            code="nodes_differ",
            saw=[(address, kind) for address, kind, _ in problems],
        )
    logger.info("preflight: %d nodes have the same versions and reach the same storage", len(nodes))


def _get(address: str, answer: "ray.ObjectRef[list[Problem]]") -> list[Problem]:
    """Return a node's problems: none if it is gone, because the job can start without it."""
    try:
        problems: list[Problem] = ray.get(answer, timeout=_ANSWER_SECONDS)
    except _LOST:
        logger.warning("preflight: the node at %s is gone; the job starts without it", address)
        return []
    except exceptions.GetTimeoutError as error:
        raise ClusterError(
            f"the node at {address} started no worker in {_ANSWER_SECONDS:g} s; "
            "check its logs, or remove it from the cluster",
            code="no_worker",
            saw=address,
        ) from error
    except (exceptions.RayError, ModuleNotFoundError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise ClusterError(
            f"the node at {address} cannot run xrec ({reason}); install this version of xrec "
            "there, or send the job with its code: xrec submit",
            code="node_without_xrec",
            saw=address,
        ) from error
    return problems


def probe(
    node_id: str, versions: Mapping[str, str], output: str, storage: StorageConfig, nonce: str
) -> list[Problem]:
    """Return what is wrong on this node; runs as a Ray task.

    Compares versions with the driver's, looks for the driver's file below the URI `output`, and
    writes, reads and deletes a file of its own.
    """
    own_versions = _versions()
    problems = [
        ("version", f"has {name} {own_versions[name]}, the driver has {version}")
        for name, version in versions.items()
        if own_versions[name] != version
    ]
    location = open_location(output, storage)
    own_file = location / f".xrec-preflight-{nonce}-{node_id}"
    try:
        (location / f".xrec-preflight-{nonce}").read_bytes()
        own_file.write_bytes(nonce.encode())
        own_file.read_bytes()
        own_file.delete()
    except StorageNotFoundError:
        problems.append(("unshared", f"does not see what the driver wrote to {location}"))
    except XRecError as error:
        problems.append(("storage", f"cannot write to {location} ({error})"))
    return problems


def _versions() -> dict[str, str]:
    """Return the versions of Python, Ray, torch and xrec, without build tags.

    torch is 2.13.0+cu130 on a node with a GPU and 2.13.0+cpu on others.
    """
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name).split("+")[0] for name in ("ray", "torch")},
        "xrec": xrec.__version__,  # a submitted job's code is not installed
    }


def check_room(nodes: Sequence[Mapping[str, float]], demand: Demand) -> None:
    """Check that `demand.fewest` processes fit on `nodes`, given as resource name to amount.

    Raises ClusterError if they do not and the cluster cannot grow. Logs a warning if it may grow,
    or if fewer processes fit than are wanted.
    """
    num_fit = sum(_num_fit(node, demand) for node in nodes)
    have = ", ".join(_amounts(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes)
    want = (
        f"{demand.fewest} process(es) of {_amounts(demand.cpus, demand.gpus)} each must run "
        f"together, {num_fit} fit on the nodes ({have})"
    )
    if num_fit >= demand.fewest:
        if num_fit < demand.wanted:
            wanted = f"{demand.key} = {demand.wanted}"
            logger.warning("%d of %s fit on the nodes (%s)", num_fit, wanted, have)
    elif may_grow():
        logger.warning("%s: waiting for the cluster to grow", want)
    else:
        raise ClusterError(
            f"{want}; lower {demand.key} or the resources of each process, add nodes, or "
            "raise ray.num_cpus if the job starts its own cluster",
            code="too_few_resources",
            key=demand.key,
            saw=num_fit,
        )


def may_grow() -> bool:
    """Return whether nodes may join, which they cannot if the cluster listens only on loopback."""
    return not ray.util.get_node_ip_address().startswith("127.")


def _num_fit(node: Mapping[str, float], demand: Demand) -> int:
    amounts = [(node.get("CPU", 0), demand.cpus), (node.get("GPU", 0), demand.gpus)]
    return min(int(available // needed) for available, needed in amounts if needed)


def _amounts(cpus: float, gpus: float) -> str:
    return f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
