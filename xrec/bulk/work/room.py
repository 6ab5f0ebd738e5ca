"""Who may work in a process at the same time, and how long each work took of its time."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(eq=False)
class Share:
    """The part of the process's time that one work took, in seconds; whole once it has ended."""

    seconds: float = 0.0


class Room:
    """At most `size` works at a time, or one that is alone.

    While n works are at it, each takes an n-th of the time, so the shares of all works add up to
    the time in which the process did any.
    """

    def __init__(self, size: int):
        self._size = size
        self._changed = threading.Condition()
        self._inside: list[Share] = []
        self._num_waiting_alone = 0
        self._divided_until = 0.0

    @contextmanager
    def enter(self, *, alone: bool = False) -> Iterator[Share]:
        """Wait for a place; `alone` waits until nobody is inside, and lets nobody else in."""
        share = Share()
        with self._changed:
            self._num_waiting_alone += alone
            self._changed.wait_for(lambda: self._has_place(alone))
            self._divide()
            self._inside += [share] * (self._size if alone else 1)
        try:
            yield share
        finally:
            with self._changed:
                self._divide()
                self._inside = [other for other in self._inside if other is not share]
                self._num_waiting_alone -= alone
                self._changed.notify_all()

    def _has_place(self, alone: bool) -> bool:
        if alone:
            return not self._inside
        return not self._num_waiting_alone and len(self._inside) < self._size

    def _divide(self) -> None:
        now = time.monotonic()
        for share in self._inside:
            share.seconds += (now - self._divided_until) / len(self._inside)
        self._divided_until = now
