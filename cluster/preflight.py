"""Checks before a job starts that the cluster can run it.

The nodes must have room for the job's processes. If there are several nodes, all must have the
same versions and reach the same storage. Each node is asked by a task of its own that needs no
CPU. A local path is allowed on several nodes only if all of them see a file that the driver
writes there; so it is when all nodes are on one machine, or share a network disk.
`python -m cluster.preflight URI...` checks versions and these URIs only.
"""

import logging
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    RayError,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.connect import ensure_ray
from cluster.probe import Probe, Problem, driver_file, probe, versions
from cluster.room import Demand, check_room
from xrec.config.shared import RayConfig, StorageConfig
from xrec.errors import ClusterError, XRecError
from xrec.storage import open_location

logger = logging.getLogger("xrec")

_ANSWER_SECONDS = 120.0
_ADVICE: Mapping[str, str] = {
    "version": "install the same versions everywhere (requirements/lock.txt), or let the job bring "
    "its own: xrec submit --packages requirements/lock.txt",
    "unshared": "a local path must be on a disk that all nodes share; give an s3:// URI instead",
    "storage": "give every node access to it: by a role, by AWS_* variables (xrec submit passes "
    "them on), or by storage.* in the config",
}
_GONE = (NodeDiedError, TaskUnschedulableError, WorkerCrashedError)


def check_cluster(
    demand: Demand, *, reads: Sequence[str], writes: Sequence[str], storage: StorageConfig
) -> None:
    """Check that the connected cluster can run a job that needs `demand`.

    `reads` are URIs of artifacts and model folders, `writes` are URIs of outputs; every node must
    reach them. Raises ClusterError, which says what is wrong on which node, and what to do.
    """
    nodes = _alive_nodes()
    check_room([node["Resources"] for node in nodes.values()], demand)
    if len(nodes) > 1:
        check_nodes(nodes, reads=reads, writes=writes, storage=storage)


def check_nodes(
    nodes: Mapping[str, Mapping[str, Any]],
    *,
    reads: Sequence[str],
    writes: Sequence[str],
    storage: StorageConfig,
) -> None:
    """Ask each of `nodes` (node id to Ray's description of it) for versions and storage.

    Raises ClusterError if a node has other versions than the driver, cannot use a URI, or does not
    answer.
    """
    nonce = secrets.token_hex(8)
    outputs = [open_location(uri, storage).shared_uri for uri in writes]
    inputs = [open_location(uri, storage).shared_uri for uri in reads]
    with _driver_files(outputs, storage, nonce):
        answers = {
            node["NodeManagerAddress"]: _ask(node_id, inputs, outputs, storage, nonce)
            for node_id, node in nodes.items()
        }
        problems = [
            (address, problem)
            for address, answer in answers.items()
            for problem in _problems(_answer(address, answer))
        ]
    if problems:
        found = [f"  the node at {address} {problem.text}" for address, problem in problems]
        kinds = {problem.kind for _, problem in problems}
        to_do = [f"  {advice}" for kind, advice in _ADVICE.items() if kind in kinds]
        raise ClusterError(
            "\n".join(["the cluster cannot run this job:", *found, "what to do:", *to_do])
        )
    logger.info("preflight: %d nodes have the same versions and reach the same storage", len(nodes))


def _alive_nodes() -> dict[str, Mapping[str, Any]]:
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}


def _ask(
    node_id: str, reads: Sequence[str], writes: Sequence[str], storage: StorageConfig, nonce: str
) -> "ray.ObjectRef[Probe]":
    place = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return (
        ray.remote(probe)
        .options(num_cpus=0, max_retries=0, scheduling_strategy=place)
        .remote(node_id, reads, writes, storage, nonce)
    )


def _answer(address: str, answer: "ray.ObjectRef[Probe]") -> Probe | None:
    """Return the node's answer, or None if the node is gone, since a job can start without it.

    Raises ClusterError if the node is there and cannot answer.
    """
    try:
        found: Probe = ray.get(answer, timeout=_ANSWER_SECONDS)
    except _GONE:
        logger.warning("preflight: the node at %s is gone; the job starts without it", address)
        return None
    except GetTimeoutError as error:
        raise ClusterError(
            f"the node at {address} started no worker in {_ANSWER_SECONDS:g} s; "
            "look at its logs, or remove it from the cluster"
        ) from error
    except (RayError, ModuleNotFoundError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise ClusterError(
            f"the node at {address} cannot run xrec ({reason}); install this version of xrec "
            "there, or send the job with its code: xrec submit"
        ) from error
    return found


def _problems(answer: Probe | None) -> Iterator[Problem]:
    if answer is None:
        return
    for name, version in versions().items():
        if answer.versions[name] != version:
            found = answer.versions[name]
            yield Problem("version", f"has {name} {found}, the driver has {version}")
    yield from answer.problems


@contextmanager
def _driver_files(uris: Sequence[str], storage: StorageConfig, nonce: str) -> Iterator[None]:
    files = [driver_file(open_location(uri, storage), nonce) for uri in uris]
    for file in files:
        file.write_bytes(nonce.encode())
    try:
        yield
    finally:
        for file in files:
            file.delete()


def main(uris: Sequence[str]) -> None:
    """Check that every node sees the local paths `uris`, for a job that does not connect to Ray."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        with ensure_ray(RayConfig()):
            nodes = _alive_nodes()
            if len(nodes) > 1:
                check_nodes(nodes, reads=[], writes=uris, storage=StorageConfig())
    except XRecError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(1) from error


if __name__ == "__main__":
    main(sys.argv[1:])
