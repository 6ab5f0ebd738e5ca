"""The progress of a run: the counts of its results, and what its driver reports with its lease.

`driver.json` only informs readers and makes other drivers wait; only results decide what is done.
While a command works on a run, a thread renews the lease, however long a step takes.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from xrec.bulk.results import Summary, total
from xrec.bulk.run import BulkRun, Pass
from xrec.errors import StorageError, StorageNotFoundError
from xrec.storage import DRIVER, Beat, Lease, Location, Record, request_each, this_process

logger = logging.getLogger("xrec")


_FOOTERS_AT_ONCE, _MANY = 64, 1024
"""How many results are opened at a time, and after how many new ones the counts are saved."""


class Counted(Record):
    """The content of `counted.json`: counts and costs of some chunks of a pass.

    The file saves the next driver from opening their results; if the results differ, they are
    counted again. chunks: a bit per chunk of the pass, as hex digits. second: chunks whose first
    result cannot be read.
    """

    chunks: str
    second: frozenset[int]
    summary: Summary


class Tally:
    """The chunks of a pass that have a result, and their counts; takes a byte per chunk."""

    def __init__(self, work: Pass):
        self._file = work.folder / "counted.json"
        self._is_counted = np.zeros(work.size.num_chunks, dtype=bool)
        results, self._broken = work.results, work.results.doubted()
        sizes = results.sizes()
        names = {n: name for n, (name, _) in sizes.items() if n < work.size.num_chunks}
        second = {chunk for chunk, name in names.items() if "~" in name}
        self._second, self.summary = set[int](), Summary()
        self._load(names.keys() - self._broken, second)
        new = [n for n in names if n not in self._broken and not self._is_counted[n]]
        read = request_each(lambda n: results.summary(names[n]), new, at_once=_FOOTERS_AT_ONCE)
        for chunk, summary in zip(new, read, strict=True):
            if summary is None:
                self._broken.add(chunk)
            else:
                self._second |= {chunk} & second
                self._count(chunk, summary)
        self._num_new = len(new)
        if self._num_new >= _MANY:
            self.keep()

    @property
    def done(self) -> npt.NDArray[np.int64]:
        """The chunks with a result, sorted."""
        return np.flatnonzero(self._is_counted)

    @property
    def left(self) -> npt.NDArray[np.int64]:
        """The chunks without a result, sorted."""
        return np.flatnonzero(~self._is_counted)

    def add(self, chunk: int, summary: Summary) -> None:
        """Count a chunk that was finished since, unless it is already counted."""
        if summary.num_rows and not self._is_counted[chunk]:
            self._second |= {chunk} & self._broken
            self._count(chunk, summary)
            self._num_new += 1

    def keep(self) -> None:
        """Save new counts; do nothing if the store fails."""
        if self._num_new:
            chunks, second = np.packbits(self._is_counted), frozenset(self._second)
            counted = Counted(chunks=chunks.tobytes().hex(), second=second, summary=self.summary)
            with suppress(StorageError):
                self._file.write_bytes(counted.to_bytes())
                self._num_new = 0

    def _load(self, readable: Set[int], second: Set[int]) -> None:
        """Use the saved counts if all of their results still exist unchanged."""
        try:
            saved = Counted.model_validate_json(self._file.read_bytes())
            bits = np.frombuffer(bytes.fromhex(saved.chunks), dtype=np.uint8)
        except (StorageNotFoundError, ValueError):
            return
        is_counted = np.unpackbits(bits)[: len(self._is_counted)].astype(bool)
        chunks = set(np.flatnonzero(is_counted).tolist())
        if chunks <= readable and chunks & second == saved.second:
            self._is_counted[list(chunks)] = True
            self._second, self.summary = set(saved.second), saved.summary

    def _count(self, chunk: int, summary: Summary) -> None:
        self._is_counted[chunk] = True
        self.summary += summary


class Survey:
    """The results of all passes of a run."""

    def __init__(self, run: BulkRun):
        self._run = run
        self.passes: list[Pass] = []
        self._tallies: list[Tally] = []
        self.summary = self.look()

    def look(self) -> Summary:
        """Read the passes added since the last call; return their counts."""
        new = self._run.passes()[len(self.passes) :]
        tallies = list(map(Tally, new))
        self.passes += new
        self._tallies += tallies
        return total(tally.summary for tally in tallies)

    @property
    def done(self) -> list[npt.NDArray[np.int64]]:
        """The chunks of each pass that have a result, sorted."""
        return [tally.done for tally in self._tallies]

    @property
    def is_done(self) -> bool:
        """Whether every chunk of every pass has a result."""
        return all(not len(tally.left) for tally in self._tallies)

    def left(self, work: Pass) -> npt.NDArray[np.int64]:
        return self._tallies[work.number].left

    def add(self, work: Pass, chunk: int, summary: Summary) -> None:
        """Count a chunk that was finished since, for `keep`."""
        self._tallies[work.number].add(chunk, summary)

    def keep(self) -> None:
        """Save all counts, so that later drivers need not read these results."""
        for tally in self._tallies:
            tally.keep()


TERM = timedelta(seconds=90)
"""How long a driver that reports nothing is considered alive."""
STARTS = "starts"
"""`starts` has a file for each driver start, with its costs excluding those of rows."""


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Clock:
    """The current time, and how often a command acts.

    wait: waits for an event for at most this many seconds. seconds_between_signs: between renewals
    of the lease. seconds_between_looks: between reports of the progress.
    """

    now: Callable[[], datetime] = now
    wait: Callable[[threading.Event, float], bool] = threading.Event.wait
    seconds_between_signs: float = TERM.total_seconds() / 6
    seconds_between_looks: float = 2.0


REAL = Clock()


class Progress(Summary, Lease):
    """The counts and costs of everything done, and the state of the driver.

    pass_number, reasons: the newest pass, and why its rows had failed. started_at: when the driver
    started. working_since: when it had its first result; num_rows_before: rows done by then.
    """

    written_at: datetime
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
    """Return the last report of a driver of the run in `folder`; None if there is none to read."""
    try:
        return Progress.model_validate_json((folder / DRIVER).read_bytes())
    except (StorageNotFoundError, ValidationError):
        return None


def costs_of_starts(folder: Location) -> Summary:
    """Return the costs of all driver starts, excluding the costs of rows."""
    starts = folder / STARTS
    names = (name for name in starts.sizes() if name.endswith(".json"))  # skip unfinished files
    return total(request_each(lambda name: Summary.read(starts / name), names))


def refuse_live_driver(folder: Location, *, but: str = "") -> None:
    """Raise LeaseError if a driver other than `but` may be at work."""
    if (last := read_progress(folder)) is not None:
        last.refuse_others(folder, "driver_at_work", but=but)


class RunBeat(Beat):
    """Renews a run's lease with `report(is_alive)` until the work ends or the plan is gone."""

    def __init__(self, run: BulkRun, clock: Clock, report: Callable[[bool], None]):
        super().__init__(self._renew_if_current, clock.seconds_between_signs, clock.wait)
        self._run, self._report = run, report

    def begin(self) -> None:
        self._report(True)
        super().begin()

    def end(self) -> None:
        """Release the lease, so that another command may start at once."""
        super().end()
        with store_may_fail():
            if self._run.is_current():
                self._report(False)

    def check_is_current(self) -> None:
        """Raise LeaseError if the plan was deleted and made again."""
        self._run.check_is_current("this driver was at work")

    def _renew_if_current(self) -> None:
        with store_may_fail():
            self.check_is_current()
            self._report(True)


@contextmanager
def seen_at_work(run: BulkRun, clock: Clock) -> Iterator[None]:
    """Hold the run's lease during the `with` block, unless a driver already holds it."""
    last, started_at = read_progress(run.folder), clock.now()
    if last is not None and last.is_alive(started_at):
        yield
        return
    last = last or Progress(
        **dict(Survey(run).summary), written_at=started_at, started_at=started_at, is_done=True
    )
    own = last.model_copy(update={"holder": this_process()})
    beat = RunBeat(run, clock, lambda is_alive: report(run, own, clock, is_alive=is_alive))
    beat.begin()
    try:
        yield
    finally:
        beat.end()


def report(run: BulkRun, progress: Progress, clock: Clock, *, is_alive: bool) -> None:
    """Write the progress, and whether the driver is alive or has ended."""
    at = clock.now()
    times = {"written_at": at, "expires_at": at + TERM if is_alive else None}
    with store_may_fail():
        write_progress(run, progress.model_copy(update=times))


@contextmanager
def store_may_fail() -> Iterator[None]:
    """Log errors of the store instead of ending the work."""
    try:
        yield
    except StorageError as error:
        logger.warning("cannot report the driver's progress; the work continues: %s", error)
