"""Checks before a job starts that the cluster can run it.

The nodes must have room for the job's processes, none of which can span two. If there are several
nodes, all must have the same versions and be able to write where the output goes. Each node is
asked by a task of its own that needs no CPU. A local path is allowed on several nodes only if all
of them see a file that the driver writes there; so it is when all nodes are on one machine, or
share a network disk.
"""

import importlib.metadata
import logging
import platform
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import ray
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    RayError,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import xrec
from xrec.config import Processes, StorageConfig, Workers
from xrec.errors import ClusterError, StorageNotFoundError, XRecError
from xrec.storage import open_location

logger = logging.getLogger("xrec")

_ANSWER_SECONDS = 120.0
_ADVICE: Mapping[str, str] = {
    "version": "install the same versions everywhere (one image, or make setup), or let the job "
    "bring its own: xrec submit --packages FILE",
    "unshared": "a local path must be on a disk that all nodes share; give an s3:// URI instead",
    "storage": "give every node access to it: by a role, by AWS_* variables (xrec submit passes "
    "them on), or by storage.* in the config",
}
_GONE = (NodeDiedError, TaskUnschedulableError, WorkerCrashedError)


@dataclass(frozen=True)
class Demand:
    """The processes that a job needs.

    `fewest` must run at the same time, `wanted` is how many the config asks for. `cpus` and `gpus`
    are those of one process. `key` is the config key that sets `wanted`.
    """

    fewest: int
    wanted: int
    cpus: int
    gpus: int
    key: str


ONE_CPU = Demand(1, 1, 1, 0, "ray.num_cpus")


def demand_of_workers(workers: Workers) -> Demand:
    """Return the demand of a training job; with device=auto its workers can run without GPUs."""
    return Demand(
        workers.fewest,
        workers.num_processes,
        workers.cpus,
        int(workers.device == "cuda"),
        "workers.num_processes",
    )


def demand_of_actors(actors: Processes, gpus_per_actor: int) -> Demand:
    """Return the demand of a backfill, for which one actor is enough.

    With device=auto the actors can run without GPUs.
    """
    return Demand(
        1,
        actors.num_processes,
        actors.cpus,
        gpus_per_actor if actors.device == "cuda" else 0,
        "actors.num_processes",
    )


@dataclass(frozen=True)
class Problem:
    """What is wrong on a node; `text` completes "the node at ADDRESS"."""

    kind: Literal["version", "unshared", "storage"]
    text: str


def check_cluster(demand: Demand, output: str, storage: StorageConfig) -> None:
    """Check that the connected cluster can run a job that needs `demand`.

    Every node must be able to write below the URI `output`. Raises ClusterError, which says what
    is wrong on which node, and what to do.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    check_room([node["Resources"] for node in nodes], demand)
    if len(nodes) > 1:
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes}
        _check_nodes(addresses, open_location(output, storage).shared_uri, storage)


def _check_nodes(nodes: Mapping[str, str], output: str, storage: StorageConfig) -> None:
    """Ask each of `nodes` (node id to address) for versions and storage."""
    nonce = secrets.token_hex(8)
    file = open_location(output, storage) / f".xrec-preflight-{nonce}"
    file.write_bytes(nonce.encode())
    try:
        asked = []
        for node_id, address in nodes.items():
            place = NodeAffinitySchedulingStrategy(node_id, soft=False)
            task = ray.remote(probe).options(num_cpus=0, max_retries=0, scheduling_strategy=place)
            asked.append((address, task.remote(node_id, _versions(), output, storage, nonce)))
        problems = [
            (address, problem) for address, answer in asked for problem in _answer(address, answer)
        ]
    finally:
        file.delete()
    if problems:
        found = [f"  the node at {address} {problem.text}" for address, problem in problems]
        kinds = {problem.kind for _, problem in problems}
        to_do = [f"  {advice}" for kind, advice in _ADVICE.items() if kind in kinds]
        raise ClusterError(
            "\n".join(["the cluster cannot run this job:", *found, "what to do:", *to_do]),
            code="nodes_differ",
            saw=[(address, problem.kind) for address, problem in problems],
        )
    logger.info("preflight: %d nodes have the same versions and reach the same storage", len(nodes))


def _answer(address: str, answer: "ray.ObjectRef[list[Problem]]") -> list[Problem]:
    """The node's problems; none if the node is gone, since a job can start without it."""
    try:
        problems: list[Problem] = ray.get(answer, timeout=_ANSWER_SECONDS)
    except _GONE:
        logger.warning("preflight: the node at %s is gone; the job starts without it", address)
        return []
    except GetTimeoutError as error:
        raise ClusterError(
            f"the node at {address} started no worker in {_ANSWER_SECONDS:g} s; "
            "look at its logs, or remove it from the cluster",
            code="no_worker",
            saw=address,
        ) from error
    except (RayError, ModuleNotFoundError) as error:
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
    """What is wrong on this node; runs as a Ray task.

    It compares its versions with the driver's, and below the URI `output` it looks for the driver's
    file, and writes, reads and deletes a file of its own.
    """
    own_versions = _versions()
    problems = [
        Problem("version", f"has {name} {own_versions[name]}, the driver has {version}")
        for name, version in versions.items()
        if own_versions[name] != version
    ]
    location = open_location(output, storage)
    own = location / f".xrec-preflight-{nonce}-{node_id}"
    try:
        (location / f".xrec-preflight-{nonce}").read_bytes()
        own.write_bytes(nonce.encode())
        own.read_bytes()
        own.delete()
    except StorageNotFoundError:
        problems.append(Problem("unshared", f"does not see what the driver wrote in {location}"))
    except XRecError as error:
        problems.append(Problem("storage", f"cannot write to {location} ({error})"))
    return problems


def _versions() -> dict[str, str]:
    """The versions of Python, Ray, torch and xrec that this process would import.

    Build tags are left out: torch is 2.13.0+cu130 on a node with a GPU and 2.13.0+cpu on others.
    """
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name).split("+")[0] for name in ("ray", "torch")},
        "xrec": xrec.__version__,  # a job may bring its code along, uninstalled
    }


def check_room(nodes: Sequence[Mapping[str, float]], demand: Demand) -> None:
    """Check that `demand.fewest` processes fit on `nodes`, each given as resource name to total.

    Raises ClusterError if they do not fit and the cluster cannot grow. Logs a warning if it may
    grow, and if fewer processes fit than are wanted.
    """
    num_places = sum(_num_places(node, demand) for node in nodes)
    have = ", ".join(_amounts(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes)
    want = (
        f"{demand.fewest} process(es) of {_amounts(demand.cpus, demand.gpus)} each must run "
        f"together, {num_places} fit on the nodes ({have})"
    )
    if num_places < demand.fewest:
        if not may_grow():
            raise ClusterError(
                f"{want}; lower {demand.key} or the resources of each process, add nodes, or "
                "raise ray.num_cpus if the job starts its own cluster",
                code="too_few_resources",
                key=demand.key,
                saw=num_places,
            )
        logger.warning("%s: waiting for the cluster to grow", want)
    elif num_places < demand.wanted:
        logger.warning(
            "%d of %s = %d fit on the nodes (%s)", num_places, demand.key, demand.wanted, have
        )


def may_grow() -> bool:
    """Whether nodes may join the cluster: not if it listens on this machine's loopback only."""
    return not ray.util.get_node_ip_address().startswith("127.")


def _num_places(node: Mapping[str, float], demand: Demand) -> int:
    amounts = [(node.get("CPU", 0), demand.cpus), (node.get("GPU", 0), demand.gpus)]
    return min(int(there // each) for there, each in amounts if each)


def _amounts(cpus: float, gpus: float) -> str:
    return f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
