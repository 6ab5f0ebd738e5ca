"""Finds out that Ray has ended while a driver waits for it.

If the head of the cluster is gone, Ray lets its drivers wait, and ends their processes after a
minute. If the raylet of the driver's own machine is gone, it ends them once they need it. Neither
raises an error.
"""

import logging
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import ray
from ray._private import worker as ray_worker

from xrec.errors import ClusterError

logger = logging.getLogger("xrec")

_SECONDS_WITHOUT_HEAD = 30.0
_SECONDS_BETWEEN_LOOKS = 3.0
_SIGNAL = signal.SIGUSR2


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
