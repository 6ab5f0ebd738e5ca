"""Show the progress of long work in a driver: a bar on a terminal, log lines elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

logger = logging.getLogger("xrec")

T = TypeVar("T")
_SECONDS_BETWEEN_LINES = 10.0


def progress(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield `items`, reporting how many of `total` are done."""
    with counter(description, total) as show:
        for done, item in enumerate(items, start=1):
            yield item
            show(done)


class Show(Protocol):
    """A function that reports how many items are done, with `text` or the description."""

    def __call__(self, done: int, text: str | None = None) -> None:
        """Report that `done` items are done."""


@contextmanager
def counter(description: str, total: int) -> Iterator[Show]:
    """Yield a function that reports how many of `total` items are done."""
    if not sys.stderr.isatty():
        yield _lines(description, total)
        return
    # Importing rich takes 0.3 s, and actors import this module too.
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)

        def show(done: int, text: str | None = None) -> None:
            bar.update(task, completed=done, description=text or description)

        yield show


def duration(seconds: float) -> str:
    """Format a duration, such as `5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def short(number: float) -> str:
    """Format a number with three significant digits, or as an integer if it is 100 or more."""
    return format(number, ",.0f" if number >= 100 else ".3g")


class Pace:
    """An estimate of the time left until `total`, from the rate since the first `to_go`."""

    def __init__(self, total: int):
        self._total = total
        self._first: tuple[int, float] | None = None

    def to_go(self, done: int) -> str:
        """Return the end of a log line, such as ", 5 min to go", or "" if there is no rate yet."""
        now = time.monotonic()
        before, since = self._first = self._first or (done, now)
        if done <= before:
            return ""
        return f", {duration((self._total - done) * (now - since) / (done - before))} to go"


def _lines(description: str, total: int) -> Show:
    """Return a function that logs at most one line every ten seconds."""
    last, pace = time.monotonic(), Pace(total)

    def show(done: int, text: str | None = None) -> None:
        nonlocal last
        to_go = pace.to_go(done)
        if time.monotonic() - last > _SECONDS_BETWEEN_LINES and done < total:
            last = time.monotonic()
            logger.info("%s", text or f"{description}: {done} of {total}{to_go}")

    return show
