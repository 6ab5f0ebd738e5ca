"""Shows the progress of a backfill: pairs explained, failed and left, the rate, and the time left.

On a terminal it is a bar, otherwise a line in the log every ten seconds.
"""

import logging
import sys
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from xrec.bulk import RunState
from xrec.progress import duration

logger = logging.getLogger("xrec")

_SECONDS_BETWEEN_LINES = 10.0


class ProgressLine:
    """Shows what one driver did of a run of `num_pairs` pairs, from `with` on.

    clock: the time in UTC, as the driver notes it in the state.
    """

    def __init__(self, num_pairs: int, clock: Callable[[], datetime] = lambda: datetime.now(UTC)):
        self._num_pairs = num_pairs
        self._clock = clock
        self._shown_at = clock()
        self._stack = ExitStack()
        self._show: Callable[[RunState, str], None] = self._log

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._show = self._stack.enter_context(_Bar(self._num_pairs)).show
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def show(self, state: RunState) -> None:
        """Show the state after a commit."""
        self._show(state, self.line(state))

    def line(self, state: RunState) -> str:
        """The state as one line; the rate is this driver's since its first actor was ready."""
        num_left = self._num_pairs - state.num_rows
        rate = state.rows_per_second(self._clock()) or 0.0
        left = duration(num_left / rate) if rate else "?"
        return (
            f"{state.num_ok:,} explained, {state.num_failed:,} failed, {num_left:,} left; "
            f"{rate:,.1f} pairs/s, {left} to go"
        )

    def _log(self, state: RunState, line: str) -> None:
        is_last = state.num_rows == self._num_pairs and state.num_rows_of_driver > 0
        seconds = (self._clock() - self._shown_at).total_seconds()
        if is_last or seconds > _SECONDS_BETWEEN_LINES:
            self._shown_at = self._clock()
            logger.info("%s", line)


class _Bar:
    def __init__(self, num_pairs: int):
        # Imported here because actors import xrec.backfill and do not need rich.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (BarColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("waiting for the first chunk", total=num_pairs)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def show(self, state: RunState, line: str) -> None:
        self._bar.update(self._task, completed=state.num_rows, description=line)
