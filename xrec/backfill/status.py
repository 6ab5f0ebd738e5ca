"""Shows the progress of a backfill: pairs explained, failed and left, the rate, and the time left.

On a terminal it is a bar, otherwise a line in the log every ten seconds.
"""

import logging
import sys
import time
from collections.abc import Iterable, Iterator

from xrec.backfill.commit import Commit

logger = logging.getLogger("xrec")

_SECONDS_BETWEEN_LINES = 10.0


class Status:
    """Counts of what this driver did of `num_left` pairs since `started_at` (monotonic, s)."""

    def __init__(self, num_left: int, started_at: float):
        self.num_left = num_left
        self.num_done = 0
        self.num_failed = 0
        self._started_at = started_at

    def add(self, commit: Commit) -> None:
        """Count a committed chunk."""
        self.num_done += commit.num_rows
        self.num_failed += commit.num_failed
        self.num_left -= commit.num_rows + commit.num_failed

    def line(self, now: float) -> str:
        """Return the status at the monotonic time `now` (s) as one line."""
        rate = (self.num_done + self.num_failed) / max(now - self._started_at, 1e-9)
        left = _duration(self.num_left / rate) if rate > 0 else "?"
        return (
            f"{self.num_done:,} explained, {self.num_failed:,} failed, {self.num_left:,} left; "
            f"{rate:,.1f} pairs/s, {left} to go"
        )


def with_status(commits: Iterable[Commit], num_left: int) -> Iterator[Commit]:
    """Yield `commits`, which have `num_left` pairs in all, and show the progress."""
    status = Status(num_left, time.monotonic())
    if sys.stderr.isatty():
        yield from _with_bar(commits, status)
        return
    last = time.monotonic()
    for commit in commits:
        status.add(commit)
        yield commit
        now = time.monotonic()
        if now - last > _SECONDS_BETWEEN_LINES or not status.num_left:
            last = now
            logger.info("%s", status.line(now))


def _with_bar(commits: Iterable[Commit], status: Status) -> Iterator[Commit]:
    # Imported here because actors import this module and do not need rich.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("waiting for the first chunk", total=status.num_left)
        for commit in commits:
            status.add(commit)
            bar.update(
                task,
                completed=status.num_done + status.num_failed,
                description=status.line(time.monotonic()),
            )
            yield commit


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
