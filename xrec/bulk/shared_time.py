"""Divides the time of a process among the works that it does at the same time."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(eq=False)
class Share:
    """The part of the time that one work took, in seconds; it is whole once the work has ended."""

    seconds: float = 0.0


class SharedTime:
    """While n works are being done, each takes an n-th of the time.

    So the shares of all works add up to the time in which the process did any.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at_work: list[Share] = []
        self._divided_until = 0.0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """The share of a work that is done inside the block."""
        mine = Share()
        with self._lock:
            self._divide()
            self._at_work.append(mine)
        try:
            yield mine
        finally:
            with self._lock:
                self._divide()
                self._at_work.remove(mine)

    def _divide(self) -> None:
        now = time.monotonic()
        for share in self._at_work:
            share.seconds += (now - self._divided_until) / len(self._at_work)
        self._divided_until = now
