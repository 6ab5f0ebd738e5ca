"""Whether the cluster has the CPUs and GPUs that a training job's workers ask for.

Ray must be initialised. Only Ray's core is imported here, because every job checks its cluster
before it starts.
"""

import logging

import ray

from xrec.config.shared import ScalingConfig
from xrec.errors import ClusterError

logger = logging.getLogger("xrec")

# Ray Train waits 60 s for room for the workers before it tries again. With this many tries an
# autoscaler has that many minutes to bring nodes.
MINUTES_TO_GROW = 10


def check_cpus(scaling: ScalingConfig) -> None:
    """Raise ClusterError if the cluster has too few CPUs and cannot grow; warn if it may grow."""
    asked = scaling.fewest_workers * scaling.cpus_per_worker
    there = ray.cluster_resources().get("CPU", 0)
    if asked <= there:
        return
    message = (
        f"{scaling.fewest_workers} workers with {scaling.cpus_per_worker} CPU(s) each, and the Ray "
        f"cluster has {there:g} CPUs"
    )
    if not may_grow():
        raise ClusterError(f"{message}; lower scaling.num_workers, or raise ray.num_cpus")
    logger.warning("%s: waiting up to %d minutes for it to grow", message, MINUTES_TO_GROW)


def uses_gpu(scaling: ScalingConfig) -> bool:
    """Return whether each worker gets a GPU.

    If GPUs are asked for and missing, raises ClusterError, or warns if the cluster may grow.
    """
    num_gpus, num_workers = ray.cluster_resources().get("GPU", 0), scaling.fewest_workers
    if scaling.device == "cuda" and num_gpus < num_workers:
        message = f"{num_workers} workers with a GPU each, and the cluster has {num_gpus:g}"
        if not may_grow():
            raise ClusterError(f"{message}; set scaling.device or num_workers")
        logger.warning("%s: waiting up to %d minutes for it to grow", message, MINUTES_TO_GROW)
    return scaling.device == "cuda" or (scaling.device == "auto" and num_gpus >= num_workers)


def elastic_range(scaling: ScalingConfig) -> int | tuple[int, int]:
    """The number of workers as Ray Train takes it: fixed, or the fewest and the most."""
    if scaling.fewest_workers == scaling.num_workers:
        return scaling.num_workers
    return scaling.fewest_workers, scaling.num_workers


def may_grow() -> bool:
    """Whether nodes may join the cluster: not if it listens on this machine's loopback only."""
    return not ray.util.get_node_ip_address().startswith("127.")
