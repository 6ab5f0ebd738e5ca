"""How far a run is: what its drivers say of themselves, and what its results say.

`driver.json` is a courtesy: it tells other drivers to wait, and a reader how far the run is. What
counts are the results.
"""

from collections.abc import Set
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from xrec.bulk.runs.result import Summary, total
from xrec.bulk.runs.run import BulkRun, Pass
from xrec.errors import LeaseError, StorageError, StorageNotFoundError
from xrec.storage import Location, Record, may_be_at_work, request_each

TERM = timedelta(seconds=90)
"""A driver that has said nothing for so long is taken for dead."""
_FOOTERS_AT_ONCE, _MANY = 64, 1024
"""So many results are opened at a time; after so many, what they say is written down."""
_DRIVER, STARTS = "driver.json", "starts"
"""What each driver's start cost besides its rows lies in files of the folder `starts`."""


class Progress(Summary):
    """How far a run is: the counts and costs of all that is done, and what its driver says.

    pass_number, reasons: of the newest pass; reasons are those of a retry. started_at: when this
    driver began; working_since: when it had its first result; num_rows_before: rows that were done
    by then. expires_at: when it is to be taken for dead; None if it has ended.
    """

    holder: str = ""
    written_at: datetime
    expires_at: datetime | None = None
    pass_number: int = 0
    reasons: tuple[str, ...] = ()
    is_done: bool = False
    started_at: datetime
    num_rows_before: int = 0
    working_since: datetime | None = None

    def rows_per_second(self, at: datetime) -> float | None:
        """The rate of this driver at a time, from its first result on; None before the second.

        What earlier drivers did does not count, nor how long the first result took, since processes
        had to start.
        """
        if self.working_since is None:
            return None
        seconds = (at - self.working_since).total_seconds()
        done = self.num_rows - self.num_rows_before
        return done / seconds if done > 0 and seconds > 0 else None


class Counted(Record):
    """What `counted.json` holds: counts and costs of some chunks of a pass, so that the next driver
    need not open their results.

    It is a courtesy: who finds other results than these counts them anew. chunks: a bit for each
    chunk of the pass, as hex digits. second: those whose first result cannot be read.
    """

    chunks: str
    second: frozenset[int]
    summary: Summary


class Tally:
    """The chunks of a pass that have a result, and what these results say together.

    It takes a byte for each chunk of the pass.
    """

    def __init__(self, each: Pass):
        self._file = each.folder / "counted.json"
        self._is_counted = np.zeros(each.size.num_chunks, dtype=bool)
        results, self._broken = each.results, each.results.doubted()
        sizes = results.sizes()
        names = {n: name for n, (name, _) in sizes.items() if n < each.size.num_chunks}
        second = {chunk for chunk, name in names.items() if "~" in name}
        self._second, self.summary = set[int](), Summary()
        self._take_over(names.keys() - self._broken, second)
        left = [n for n in names if n not in self._broken and not self._is_counted[n]]
        found = request_each(lambda n: results.summary(names[n]), left, at_once=_FOOTERS_AT_ONCE)
        for chunk, summary in zip(left, found, strict=True):
            if summary is None:
                self._broken.add(chunk)
            else:
                self._second |= {chunk} & second
                self._count(chunk, summary)
        self._num_new = len(left)
        if self._num_new >= _MANY:
            self.keep()

    @property
    def done(self) -> npt.NDArray[np.int64]:
        """The chunks, sorted."""
        return np.flatnonzero(self._is_counted)

    @property
    def left(self) -> npt.NDArray[np.int64]:
        return np.flatnonzero(~self._is_counted)

    def add(self, chunk: int, summary: Summary) -> None:
        """Count a chunk that has a result since, unless it is counted, or was not begun."""
        if summary.num_rows and not self._is_counted[chunk]:
            self._second |= {chunk} & self._broken
            self._count(chunk, summary)
            self._num_new += 1

    def keep(self) -> None:
        """Write what was counted, if that is more than was read; a store may fail to do so."""
        if self._num_new:
            chunks, second = np.packbits(self._is_counted), frozenset(self._second)
            told = Counted(chunks=chunks.tobytes().hex(), second=second, summary=self.summary)
            with suppress(StorageError):
                self._file.write_bytes(told.to_bytes())
                self._num_new = 0

    def _take_over(self, there: Set[int], second: Set[int]) -> None:
        """Count what `counted.json` says, if each of its results is there and stands."""
        try:
            told = Counted.model_validate_json(self._file.read_bytes())
            bits = np.frombuffer(bytes.fromhex(told.chunks), dtype=np.uint8)
        except (StorageNotFoundError, ValueError):
            return
        is_counted = np.unpackbits(bits)[: len(self._is_counted)].astype(bool)
        chunks = set(np.flatnonzero(is_counted).tolist())
        if chunks <= there and chunks & second == told.second:
            self._is_counted[list(chunks)] = True
            self._second, self.summary = set(told.second), told.summary

    def _count(self, chunk: int, summary: Summary) -> None:
        self._is_counted[chunk] = True
        self.summary += summary


class Survey:
    """What the results of a run say: which chunks are done, by pass, and the counts of all."""

    def __init__(self, run: BulkRun):
        self._run = run
        self.passes: list[Pass] = []
        self._tallies: list[Tally] = []
        self.summary = self.look()

    def look(self) -> Summary:
        """Look at passes that were begun meanwhile too; returns what is done of these."""
        new = self._run.passes()[len(self.passes) :]
        tallies = [Tally(each) for each in new]
        self.passes += new
        self._tallies += tallies
        return total(each.summary for each in tallies)

    @property
    def done(self) -> list[npt.NDArray[np.int64]]:
        """The chunks of each pass that have a result, sorted."""
        return [each.done for each in self._tallies]

    @property
    def is_done(self) -> bool:
        """Whether each chunk of each pass has a result."""
        return all(not len(each.left) for each in self._tallies)

    def left(self, each: Pass) -> npt.NDArray[np.int64]:
        return self._tallies[each.number].left

    def add(self, each: Pass, chunk: int, summary: Summary) -> None:
        """Count a chunk of a pass that was done since, for those who look later (`keep`)."""
        self._tallies[each.number].add(chunk, summary)

    def keep(self) -> None:
        """Let whoever looks later read no result again that was counted here."""
        for each in self._tallies:
            each.keep()


def costs_of_starts(folder: Location) -> Summary:
    """What the starts of drivers cost besides rows, as they last said."""
    starts = folder / STARTS
    names = (name for name in starts.sizes() if name.endswith(".json"))  # others are being written
    return total(request_each(lambda name: Summary.read(starts / name), names))


def write_progress(run: BulkRun, progress: Progress) -> None:
    (run.folder / _DRIVER).write_bytes(progress.to_bytes())


def read_progress(folder: Location) -> Progress | None:
    """What the last driver said, of the run whose results are in `folder`; None if none did."""
    try:
        return Progress.model_validate_json((folder / _DRIVER).read_bytes())
    except (StorageNotFoundError, ValidationError):
        return None


def refuse_live_driver(folder: Location, *, but: str = "") -> None:
    """Raise LeaseError if a driver other than `but` said lately that it works, and still may."""
    progress = read_progress(folder)
    if (
        progress is None
        or progress.holder == but
        or not may_be_at_work(progress.holder, progress.expires_at)
    ):
        return
    assert progress.expires_at is not None
    raise LeaseError(
        f"{folder}: {progress.holder} works on this run, and is taken for alive until "
        f"{progress.expires_at:%Y-%m-%d %H:%M:%S} UTC, or longer if it reports again; wait until "
        "it ends, or stop it. If it is dead, run again after that time",
        code="driver_at_work",
        key=str(folder),
        saw=progress.holder,
    )


def now() -> datetime:
    """The time in UTC."""
    return datetime.now(UTC)
