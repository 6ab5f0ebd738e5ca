"""What goes to Ray's actors and what comes back: settings, GPUs, errors, and that Ray has ended.

If the head of the cluster is gone, Ray lets its drivers wait, and ends their processes after a
minute. If the raylet of the driver's own machine is gone, it ends them once they need it. Neither
raises an error, so `raises_if_ray_ends` finds out.
"""

import gc
import logging
import re
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import ray
from ray import cloudpickle
from ray._private import worker as ray_worker
from ray.exceptions import RayError

from xrec.config.shared import Device
from xrec.errors import ClusterError, XRecError

logger = logging.getLogger("xrec")

_SECONDS_WITHOUT_HEAD = 30.0
_SECONDS_BETWEEN_LOOKS = 3.0
_SIGNAL = signal.SIGUSR2
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


@contextmanager
def raises_if_ray_ends() -> Iterator[None]:
    """Raise ClusterError within the block if the raylet ends, or the head is gone for 30 s.

    Only the main thread can be interrupted while it waits. In another one, and in a client of Ray
    (ray://), nothing is looked at.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or ray_worker._global_node is None:
        yield
        return
    watch = _Watch()
    before = signal.signal(_SIGNAL, watch.on_signal)
    watch.start()
    try:
        yield
    finally:
        watch.end()
        signal.signal(_SIGNAL, before)


class _Watch(threading.Thread):
    """Sends the main thread a signal once Ray has ended."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._head = str(ray.get_runtime_context().gcs_address)
        self._raylet = socket.socket(socket.AF_UNIX)
        try:
            self._raylet.connect(ray_worker._global_node.plasma_store_socket_name)
        except OSError as error:
            raise ClusterError(
                f"Ray has ended ({error}); start it and run the job again"
            ) from error
        self._is_over = False
        self._lock = threading.Lock()
        self._why = ""

    def on_signal(self, *_: object) -> NoReturn:
        """Raise what the main thread is to end with."""
        raise ClusterError(self._why)

    def run(self) -> None:
        """Look until the end of the watch, or of Ray."""
        with self._raylet:
            self._look()

    def _look(self) -> None:
        head_seen_at = time.monotonic()
        while not self._is_over and ray.is_initialized():
            # Nothing is ever sent on this connection, so it is readable once the raylet has ended.
            if select.select([self._raylet], [], [], _SECONDS_BETWEEN_LOOKS)[0]:
                self._interrupt("the raylet of this machine is gone")
                return
            if _answers(self._head):
                head_seen_at = time.monotonic()
            elif time.monotonic() - head_seen_at > _SECONDS_WITHOUT_HEAD:
                self._interrupt(f"nothing answers at {self._head} any more")
                return

    def end(self) -> None:
        """End the watch; no signal comes afterwards."""
        with self._lock:
            self._is_over = True

    def _interrupt(self, what: str) -> None:
        with self._lock:
            if self._is_over or not ray.is_initialized():
                return
            self._why = f"Ray has ended: {what}; run the job again to go on with what is left"
            logger.error("%s", self._why)  # Ray may end this process before the error is seen
            signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_BETWEEN_LOOKS).close()
    except OSError:
        return False
    return True
