"""Sends rows through an actor pool of Ray Data, for the bulk jobs: backfill and recommend."""

import gc
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray
import ray.data
from ray import cloudpickle
from ray.exceptions import RayError

import xrec.errors
from xrec.config.shared import Device
from xrec.errors import ClusterError, XRecError

logger = logging.getLogger("xrec")

# A block is an object of Ray. With more rows than this, a block holds several rows, and an actor
# does them one after the other.
_MAX_BLOCKS = 4096
_OWN_ERROR = re.compile(r"^xrec\.[\w.]+\.(\w+Error): (.*?)(?:\n\n|\Z)", re.MULTILINE | re.DOTALL)


def map_on_actors(
    actor: type[Callable[..., Any]],
    settings: Any,
    rows: Sequence[Mapping[str, Any]],
    *,
    min_actors: int,
    max_actors: int,
    cpus_per_actor: int,
    gpus_per_actor: int = 0,
) -> Iterator[dict[str, Any]]:
    """Yield the row that `actor(settings)` makes of each of `rows`, as results arrive.

    `actor` is called with a batch of one row, a mapping from column to an array of length one. A
    row whose actor is lost is done again by another. The pool grows from `min_actors` to
    `max_actors` while there is work and room. If an actor raises an XRecError, an error of the
    same type and message is raised here; any other failure raises ClusterError.
    """
    _quiet_ray_data()
    dataset = ray.data.from_items(
        [dict(row) for row in rows], override_num_blocks=min(len(rows), _MAX_BLOCKS)
    ).map_batches(
        type(actor.__name__, (_Packed,), {}),  # Ray shows the class's name to users
        fn_constructor_args=(cloudpickle.dumps((actor, settings)),),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=min_actors, max_size=max_actors),
        num_cpus=cpus_per_actor,
        num_gpus=gpus_per_actor,
    )
    try:
        yield from dataset.iter_rows()
        return
    except RayError as error:
        logger.debug("the actors failed", exc_info=True)
        ours = as_xrec_error(error)
    # An actor keeps its CPU as long as anything refers to it. The failed execution is a reference
    # cycle of frames, so garbage must be collected. Ray's error refers to the execution, so it must
    # not become the cause of ours.
    del dataset
    gc.collect()
    raise ours


def _quiet_ray_data() -> None:
    """Switch off Ray Data's progress bars, which count blocks; the jobs show their own of rows."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


class _Packed:
    """An actor whose class and settings arrive as bytes."""

    def __init__(self, packed: bytes):
        actor, settings = unpack(packed)
        self._actor = actor(settings)

    def __call__(self, batch: dict[str, Any]) -> Any:
        return self._actor(batch)


def unpack(packed: bytes) -> Any:
    """What `cloudpickle.dumps` packed, for an actor that begins.

    Unpickling imports torch and transformers, which takes five seconds, and one second less if no
    garbage is collected meanwhile.
    """
    gc.disable()
    try:
        return cloudpickle.loads(packed)
    finally:
        gc.freeze()  # imported modules stay, so later collections need not look at them
        gc.enable()


def gpus_each(device: Device, num_processes: int, gpus: int = 1) -> int:
    """Return how many GPUs each of `num_processes` processes gets: `gpus` or 0.

    They get GPUs if `device` is cuda, or if it is auto and the connected cluster has enough.
    """
    has_enough = device == "auto" and ray.cluster_resources().get("GPU", 0) >= num_processes * gpus
    return gpus if device == "cuda" or has_enough else 0


def as_xrec_error(error: RayError) -> XRecError:
    """Return the XRecError that our code raised in an actor, or else a ClusterError.

    Only the text of an actor's tracebacks reaches the driver, so the type and the message are read
    from that text.
    """
    text = str(error)
    ours = _OWN_ERROR.findall(text)
    if ours:
        name, message = ours[-1]  # the outermost error of the chain comes last
        error_type: type[XRecError] = getattr(xrec.errors, name, XRecError)
        return error_type(message)
    root = (text.split("\n\nThe above exception was", 1)[0].strip().splitlines() or [""])[-1]
    return ClusterError(
        f"the job's actors failed ({type(error).__name__}: {root[:500]}); "
        "run the job again to go on with what is left"
    )
