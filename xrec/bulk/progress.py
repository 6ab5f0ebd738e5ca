"""The progress of a run: its results, counted; who works on it; and what that driver reports.

`counted.json` saves the next driver from opening results. `driver.json` informs readers and makes
other drivers wait; only results decide what is done. While a command works on a run, a thread
renews its lease, however long a step takes.
"""

import logging
from collections.abc import Callable, Iterator, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime, timedelta
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from xrec.bulk.rows import Summary, total
from xrec.bulk.run import BulkRun, Pass
from xrec.errors import StorageError, StorageNotFoundError
from xrec.storage import DRIVER, Beat, Lease, Location, Record, request_each, this_process

logger = logging.getLogger("xrec")

_FOOTERS_AT_ONCE, _MANY = 64, 1024
"""How many results are opened at a time, and after how many new ones the counts are saved."""


class Counted(Record):
    """The content of `counted.json`: counts and costs of some chunks of a pass.

    chunks: a bit per chunk of the pass, as hex digits.
    """

    chunks: str
    summary: Summary


class Tally:
    """The chunks of a pass that have a result, and their counts; takes a byte per chunk."""

    def __init__(self, work: Pass):
        self._file, results = work.folder / "counted.json", work.results
        self._is_done = np.zeros(work.size.num_chunks, dtype=bool)
        self.summary, self._num_new = Summary(), 0
        names = {chunk: name for chunk, (name, _) in results.sizes().items()}
        doubted = results.doubted()
        if not doubted and not any("~" in name for name in names.values()):
            self._load(names.keys())
        new = [
            chunk
            for chunk in names.keys() - doubted
            if chunk < work.size.num_chunks and not self._is_done[chunk]
        ]
        files = (names[chunk] for chunk in new)
        summaries = request_each(results.summary, files, at_once=_FOOTERS_AT_ONCE)
        for chunk, summary in zip(new, summaries, strict=True):
            if summary is not None:
                self.add(chunk, summary)
        if self._num_new >= _MANY:
            self.keep()

    @property
    def done(self) -> npt.NDArray[np.int64]:
        """The chunks with a result, sorted."""
        return np.flatnonzero(self._is_done)

    @property
    def left(self) -> npt.NDArray[np.int64]:
        """The chunks without a result, sorted."""
        return np.flatnonzero(~self._is_done)

    def add(self, chunk: int, summary: Summary) -> None:
        """Count a chunk, unless it is already counted."""
        if summary.num_rows and not self._is_done[chunk]:
            self._is_done[chunk] = True
            self.summary += summary
            self._num_new += 1

    def keep(self) -> None:
        """Save new counts; do nothing if the store fails."""
        if self._num_new:
            chunks = np.packbits(self._is_done).tobytes().hex()
            with suppress(StorageError):
                self._file.write_bytes(Counted(chunks=chunks, summary=self.summary).to_bytes())
                self._num_new = 0

    def _load(self, chunks: Set[int]) -> None:
        """Use the saved counts if all of their results still exist."""
        try:
            saved = Counted.model_validate_json(self._file.read_bytes())
            bits = np.frombuffer(bytes.fromhex(saved.chunks), dtype=np.uint8)
        except (StorageNotFoundError, ValueError):
            return
        is_done = np.unpackbits(bits)[: len(self._is_done)].astype(bool)
        counted = np.flatnonzero(is_done)
        if chunks >= set(counted.tolist()):
            self._is_done[counted], self.summary = True, saved.summary


class Survey:
    """The results of all passes of a run; `tallies` has one for each of `passes`."""

    def __init__(self, run: BulkRun):
        self._run = run
        self.passes: list[Pass] = []
        self.tallies: list[Tally] = []
        self.look()

    def look(self) -> None:
        """Read the passes added since the last call."""
        new = self._run.passes()[len(self.passes) :]
        self.tallies += map(Tally, new)
        self.passes += new

    @property
    def summary(self) -> Summary:
        """The counts and costs of all rows, each with its last outcome."""
        return total(tally.summary for tally in self.tallies)

    @property
    def is_done(self) -> bool:
        """Whether every chunk of every pass has a result."""
        return all(not len(tally.left) for tally in self.tallies)

    def keep(self) -> None:
        """Save all counts, so that later drivers need not read these results."""
        for tally in self.tallies:
            tally.keep()


TERM = timedelta(seconds=90)
"""How long a driver that reports nothing is considered alive."""


class Progress(Summary, Lease):
    """The counts and costs of everything done, and the state of the driver.

    start_costs: the part of the costs that is not of rows, of all starts so far. pass_number,
    reasons: the newest pass, and why its rows had failed. started_at: when the driver started.
    working_since: when it had its first result; num_rows_before: rows done by then.
    """

    written_at: datetime
    start_costs: dict[str, float] = Field(default_factory=dict)
    pass_number: int = 0
    reasons: tuple[str, ...] = ()
    is_done: bool = False
    started_at: datetime
    num_rows_before: int = 0
    working_since: datetime | None = None

    def rows_per_second(self, at: datetime) -> float | None:
        """Return the driver's own rate since its first result (excluding startup), or None."""
        if self.working_since is None:
            return None
        seconds = (at - self.working_since).total_seconds()
        done = self.num_rows - self.num_rows_before
        return done / seconds if done > 0 and seconds > 0 else None


def write_progress(run: BulkRun, progress: Progress) -> None:
    (run.folder / DRIVER).write_bytes(progress.to_bytes())


def read_progress(folder: Location) -> Progress | None:
    """Return the last report of a driver of the run in `folder`; None if it has none."""
    try:
        return Progress.model_validate_json((folder / DRIVER).read_bytes())
    except (StorageNotFoundError, ValidationError):
        return None


def start_costs(folder: Location) -> Summary:
    """Return the costs of all driver starts, excluding the costs of rows."""
    last = read_progress(folder)
    return Summary(costs=last.start_costs if last else {})


def refuse_live_driver(folder: Location, *, but: str = "") -> None:
    """Raise LeaseError if a driver other than `but` may be at work."""
    if (last := read_progress(folder)) is not None:
        last.refuse_others(folder, "driver_at_work", but=but)


class RunLease(Beat):
    """Holds a run for this process during a `with` block, and keeps reporting `progress()`.

    It ends with an error if the run is planned again.
    """

    def __init__(self, run: BulkRun, progress: Callable[[], Progress]):
        clock = run.clock
        super().__init__(self._report_if_current, clock.seconds_between_signs, clock.wait)
        self._run, self._progress = run, progress

    def __enter__(self) -> Self:
        self.report()
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lease, so that another command may start at once."""
        self.end()
        with store_may_fail():
            if self._run.is_current():
                self.report(is_alive=False)

    def report(self, *, is_alive: bool = True) -> None:
        """Write the progress, and whether this process is alive or has ended."""
        at = self._run.clock.now()
        times = {"written_at": at, "expires_at": at + TERM if is_alive else None}
        with store_may_fail():
            write_progress(self._run, self._progress().model_copy(update=times))

    def check_is_current(self) -> None:
        """Raise LeaseError if the plan was deleted and made again."""
        self._run.check_is_current("this driver was at work")

    def _report_if_current(self) -> None:
        with store_may_fail():
            self.check_is_current()
            self.report()


def lease_if_free(run: BulkRun) -> AbstractContextManager[object]:
    """Return a lease that keeps the last report, or nothing if a driver already holds one."""
    last, at = read_progress(run.folder), run.clock.now()
    if last is not None and last.is_alive(at):
        return nullcontext()
    last = last or Progress(**dict(Survey(run).summary), written_at=at, started_at=at, is_done=True)
    own = last.model_copy(update={"holder": this_process()})
    return RunLease(run, lambda: own)


@contextmanager
def store_may_fail() -> Iterator[None]:
    """Log errors of the store instead of ending the work."""
    try:
        yield
    except StorageError as error:
        logger.warning("cannot report the driver's progress; the work continues: %s", error)
