"""Checks that a job's processes fit on the nodes of a cluster; a process cannot span two nodes."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray

from xrec.config.backfill import ActorsConfig
from xrec.config.shared import ScalingConfig
from xrec.errors import ClusterError

logger = logging.getLogger("xrec")


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


def demand_of_workers(scaling: ScalingConfig) -> Demand:
    """Return the demand of a training job; with device=auto its workers can run without GPUs."""
    return Demand(
        scaling.fewest_workers,
        scaling.num_workers,
        scaling.cpus_per_worker,
        int(scaling.device == "cuda"),
        "scaling.num_workers",
    )


def demand_of_actors(actors: ActorsConfig, gpus_per_actor: int) -> Demand:
    """Return the demand of a backfill, for which one actor is enough.

    With device=auto the actors can run without GPUs.
    """
    return Demand(
        1,
        actors.num_actors,
        actors.cpus_per_actor,
        gpus_per_actor if actors.device == "cuda" else 0,
        "actors.num_actors",
    )


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
                "raise ray.num_cpus if the job starts its own cluster"
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
