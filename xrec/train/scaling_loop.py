"""Whether the cluster has what a training job's workers ask for: CPUs, and GPUs or none. Ray must be initialised."""

import logging

import ray

from xrec.config.shared import ScalingConfig
from xrec.errors import ClusterError

logger = logging.getLogger("xrec")

# A worker group that finds no place within 60 s is tried again: so many minutes an autoscaler has to bring nodes.
MINUTES_TO_GROW = 10


def uses_gpu(scaling: ScalingConfig) -> bool:
    """Whether each worker gets a GPU of the connected cluster; raises ClusterError if they are asked for and missing."""
    num_gpus, num_workers = ray.cluster_resources().get("GPU", 0), scaling.fewest_workers
    if scaling.device == "cuda" and num_gpus < num_workers and not may_grow():
        raise ClusterError(
            f"{num_workers} workers with a GPU each, and the cluster has {num_gpus:g}; set scaling.device or num_workers"
        )
    return scaling.device == "cuda" or (scaling.device == "auto" and num_gpus >= num_workers)


def elastic_range(scaling: ScalingConfig) -> int | tuple[int, int]:
    """The number of workers as Ray Train takes it: fixed, or fewest and most."""
    return (
        scaling.num_workers
        if scaling.fewest_workers == scaling.num_workers
        else (scaling.fewest_workers, scaling.num_workers)
    )


def check_cpus(scaling: ScalingConfig) -> None:
    """Raise ClusterError if the cluster has too few CPUs for the workers and will not grow; warn if it may."""
    asked, there = (
        scaling.fewest_workers * scaling.cpus_per_worker,
        ray.cluster_resources().get("CPU", 0),
    )
    if asked <= there:
        return
    message = f"{scaling.fewest_workers} workers with {scaling.cpus_per_worker} CPU(s) each, and the Ray cluster has {there:g} CPUs"
    if not may_grow():
        raise ClusterError(f"{message}; lower scaling.num_workers, or raise ray.num_cpus")
    logger.warning("%s: waiting up to %d minutes for it to grow", message, MINUTES_TO_GROW)


def may_grow() -> bool:
    """False for a cluster on this machine's loopback: nobody adds nodes to it."""
    return not ray.util.get_node_ip_address().startswith("127.")
