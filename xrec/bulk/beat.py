"""Signs of life: while a command works on a run, a thread gives them, however long a step takes."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from xrec.bulk.runs.progress import TERM, Progress, Survey, now, read_progress, write_progress
from xrec.bulk.runs.run import BulkRun
from xrec.errors import StorageError
from xrec.storage import may_be_at_work, this_process

logger = logging.getLogger("xrec")


@dataclass(frozen=True)
class Clock:
    """Where a command gets the time from, and how often it acts.

    wait: waits for an event at most so many seconds. seconds_between_signs: of life.
    seconds_between_looks: at the budget and the progress that is shown.
    """

    now: Callable[[], datetime] = now
    wait: Callable[[threading.Event, float], bool] = threading.Event.wait
    seconds_between_signs: float = TERM.total_seconds() / 6
    seconds_between_looks: float = 2.0


REAL = Clock()


class Beat:
    """A thread that lets a command `say` that it is alive, until its work or its plan has ended.

    say: writes whether the command is alive. error: what must end the work; None if nothing must.
    """

    def __init__(self, run: BulkRun, clock: Clock, say: Callable[[bool], None]):
        self.error: Exception | None = None
        self._run, self._clock, self._say = run, clock, say
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)

    def begin(self) -> None:
        self._say(True)
        self._thread.start()

    def end(self) -> None:
        """Say that the work has ended, so that another command may begin at once."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        with store_may_fail():
            if self._run.is_current():
                self._say(False)

    def check_is_current(self) -> None:
        """Raise LeaseError if the plan was deleted and made again."""
        self._run.check_is_current("this driver was at work, so it ends")

    def _go_on(self) -> None:
        while not self._clock.wait(self._ending, self._clock.seconds_between_signs):
            try:
                with store_may_fail():
                    self.check_is_current()
                    self._say(True)
            except Exception as error:  # noqa: BLE001  it is the main thread that raises it
                self.error = error
                return


@contextmanager
def seen_at_work(run: BulkRun, clock: Clock) -> Iterator[None]:
    """Give signs of life within `with`, unless a driver of the run does."""
    last, began_at = read_progress(run.folder), clock.now()
    if last is not None and may_be_at_work(last.holder, last.expires_at, began_at):
        yield
        return
    progress = last or Progress(
        **dict(Survey(run).summary), written_at=began_at, started_at=began_at, is_done=True
    )

    def say(alive: bool) -> None:
        give_sign(run, progress.model_copy(update={"holder": this_process()}), clock, alive=alive)

    beat = Beat(run, clock, say)
    beat.begin()
    try:
        yield
    finally:
        beat.end()


def give_sign(run: BulkRun, progress: Progress, clock: Clock, *, alive: bool) -> None:
    """Write how far the run is, and that its driver is alive, or has ended.

    It is a courtesy: a store that fails ends nothing.
    """
    at = clock.now()
    said = {"written_at": at, "expires_at": at + TERM if alive else None}
    with store_may_fail():
        write_progress(run, progress.model_copy(update=said))


@contextmanager
def store_may_fail() -> Iterator[None]:
    """Log errors of the store: what is written or read here is a courtesy."""
    try:
        yield
    except StorageError as error:
        logger.warning("the driver's sign of life failed, and the work goes on: %s", error)
