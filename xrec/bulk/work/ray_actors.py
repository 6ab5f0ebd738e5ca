"""What goes to Ray's processes and what comes back: settings, GPUs, errors, and that Ray ended."""

import gc
import logging
import select
import socket
import time
import traceback
from typing import Any

import ray
from ray import cloudpickle
from ray.util.client import ray as client

from xrec.config import Device
from xrec.errors import ClusterError, XRecError

logger = logging.getLogger("xrec")

_SECONDS_WITHOUT_HEAD = 30.0
_SECONDS_BETWEEN_LOOKS = 3.0


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


def portable(error: Exception) -> XRecError:
    """Return what the driver raises for an error of a process: the error itself if it is ours."""
    if isinstance(error, XRecError):
        copy: XRecError = cloudpickle.loads(cloudpickle.dumps(error))
        return copy
    ours = ClusterError(
        f"the job's processes failed ({type(error).__name__}: {str(error)[:500]}); "
        "run the job again to go on with what is left",
        code="processes_failed",
        key=type(error).__name__,
    )
    ours.add_note("".join(traceback.format_exception(error)))
    return ours


class RayWatch:
    """Finds out whether Ray has ended, which Ray itself doesn't report.

    Once the head of a cluster is gone, Ray lets its drivers wait, and ends their processes after a
    minute. Once the raylet of a driver's own machine is gone, Ray ends the process when it needs
    the raylet. A client of Ray (ray://) has neither, so nothing is watched there.

    has_ended: whether `check` has found that; nothing may be asked of Ray then.
    """

    def __init__(self) -> None:
        self.has_ended = False
        self._head, self._raylet = "", socket.socket(socket.AF_UNIX)
        self._looked_at = self._seen_at = time.monotonic()
        if client.is_connected():
            return
        context = ray.get_runtime_context()
        self._head = str(context.gcs_address)
        own = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
        try:
            self._raylet.connect(own["ObjectStoreSocketName"])
        except OSError as error:
            raise ClusterError(
                f"Ray has ended ({error}); start it and run the job again", code="ray_ended"
            ) from error

    def __enter__(self) -> "RayWatch":
        return self

    def __exit__(self, *_: object) -> None:
        self._raylet.close()

    def check(self) -> None:
        """Raise ClusterError if the raylet has ended, or the head has been gone for 30 seconds."""
        if not self._head:
            return
        # Nothing is ever sent on this connection, so it is readable once the raylet has ended.
        if select.select([self._raylet], [], [], 0)[0]:
            raise self._ended("the raylet of this machine is gone")
        if time.monotonic() - self._looked_at > _SECONDS_BETWEEN_LOOKS:
            if _answers(self._head):
                self._seen_at = time.monotonic()
            self._looked_at = time.monotonic()
            if self._looked_at - self._seen_at > _SECONDS_WITHOUT_HEAD:
                raise self._ended(f"nothing answers at {self._head} any more")

    def _ended(self, what: str) -> ClusterError:
        self.has_ended = True
        error = ClusterError(
            f"Ray has ended: {what}; run the job again to go on with what is left", code="ray_ended"
        )
        logger.error("%s", error)  # Ray may end this process before the error is seen
        return error


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_BETWEEN_LOOKS).close()
    except OSError:
        return False
    return True
