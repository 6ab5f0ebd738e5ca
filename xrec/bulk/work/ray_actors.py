"""What goes to Ray's actors and what comes back: settings, GPUs, errors."""

import gc
import re
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayError

from xrec.config.shared import Device
from xrec.errors import ClusterError, XRecError

_OWN_ERROR = re.compile(r"^xrec\.[\w.]+\.(\w+Error): (.*?)(?:\n\n|\Z)", re.MULTILINE | re.DOTALL)


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
    """How many GPUs each of `num_processes` processes gets: `gpus` or 0.

    They get GPUs if `device` is cuda, or if it is auto and the connected cluster has enough.
    """
    has_enough = device == "auto" and ray.cluster_resources().get("GPU", 0) >= num_processes * gpus
    return gpus if device == "cuda" or has_enough else 0


def as_xrec_error(error: RayError) -> XRecError:
    """The XRecError that our code raised in an actor, or else a ClusterError.

    Only the text of an actor's tracebacks reaches the driver, so the type and the message are read
    from that text.
    """
    text = str(error)
    ours = _OWN_ERROR.findall(text)
    if ours:
        name, message = ours[-1]  # the outermost error of the chain comes last
        return _error_types(XRecError).get(name, XRecError)(message)
    root = (text.split("\n\nThe above exception was", 1)[0].strip().splitlines() or [""])[-1]
    return ClusterError(
        f"the job's actors failed ({type(error).__name__}: {root[:500]}); "
        "run the job again to go on with what is left"
    )


def _error_types(parent: type[XRecError]) -> dict[str, type[XRecError]]:
    """An error and all that are derived from it, wherever, by name."""
    types = {parent.__name__: parent}
    for child in parent.__subclasses__():
        types |= _error_types(child)
    return types
