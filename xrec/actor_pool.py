"""Rows through Ray Data's actor pool: what the bulk jobs (backfill, recommend) have in common."""

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

_MAX_BLOCKS = 4096  # a block is an object of Ray's; beyond so many rows a block holds several, done one after the other
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
    """Yield the row that `actor(settings)` makes of each of `rows`, as they finish; a row of a lost actor is done again.

    The pool grows from `min_actors` to `max_actors` as there is work and room. Raises the actors' own XRecError, or ClusterError.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours counts rows
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    dataset = ray.data.from_items(
        [dict(row) for row in rows], override_num_blocks=min(len(rows), _MAX_BLOCKS)
    ).map_batches(
        type(actor.__name__, (_Packed,), {}),  # Ray shows the name
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
    # An actor holds its CPU as long as anything refers to it. The failed execution is a cycle of frames, hence `collect`, and
    # Ray's error refers to it, hence no `from error`.
    del dataset
    gc.collect()
    raise ours


class _Packed:
    """An actor that arrives as bytes. To unpickle it imports torch and transformers: a second less of five if nobody collects garbage meanwhile."""

    def __init__(self, packed: bytes):
        gc.disable()
        try:
            actor, settings = cloudpickle.loads(packed)
        finally:
            gc.freeze()  # what was imported stays: no collection looks at it
            gc.enable()
        self._actor = actor(settings)

    def __call__(self, batch: dict[str, Any]) -> Any:
        return self._actor(batch)


def gpus_each(device: Device, num_processes: int, gpus: int = 1) -> int:
    """`gpus` for each of so many processes if `device` asks for them, or is auto and the connected cluster has enough; else 0."""
    has_enough = device == "auto" and ray.cluster_resources().get("GPU", 0) >= num_processes * gpus
    return gpus if device == "cuda" or has_enough else 0


def as_xrec_error(error: RayError) -> XRecError:
    """The error of our own code, else a ClusterError. Of an actor's exceptions only the tracebacks' text reaches the driver."""
    text = str(error)
    ours = _OWN_ERROR.findall(text)
    if ours:
        name, message = ours[-1]  # the outermost of a chain
        error_type: type[XRecError] = getattr(xrec.errors, name, XRecError)
        return error_type(message)
    root = (text.split("\n\nThe above exception was", 1)[0].strip().splitlines() or [""])[-1]
    return ClusterError(
        f"the job's actors failed ({type(error).__name__}: {root[:500]}); run it again to go on with what is left"
    )
