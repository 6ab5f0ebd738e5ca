"""How far a run is: what its drivers say of themselves, and what its results say.

`driver.json` is a courtesy: it tells other drivers to wait, and a reader how far the run is. What
counts are the results.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from xrec.bulk.runs.result import Summary, total
from xrec.bulk.runs.run import BulkRun, Pass
from xrec.errors import LeaseError, StorageNotFoundError
from xrec.storage import Location, request_each
from xrec.storage.process import may_be_at_work

TERM = timedelta(seconds=90)
"""A driver that has said nothing for so long is taken for dead."""
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


class Survey:
    """What the results of a run say: which chunks are done, by pass, and the counts of all."""

    def __init__(self, run: BulkRun):
        self._run = run
        self.passes: list[Pass] = []
        self.done: list[npt.NDArray[np.int64]] = []
        self.summary = self.look()

    def look(self) -> Summary:
        """Look at passes that were begun meanwhile too; returns what is done of these."""
        new = self._run.passes()[len(self.passes) :]
        found = [_summaries(each) for each in new]
        self.passes += new
        self.done += [np.array(sorted(each), dtype=np.int64) for each in found]
        return total(total(each.values()) for each in found)

    @property
    def is_done(self) -> bool:
        """Whether each chunk of each pass has a result."""
        return all(not len(self.left(each)) for each in self.passes)

    def left(self, each: Pass) -> npt.NDArray[np.int64]:
        return np.setdiff1d(np.arange(each.size.num_chunks), self.done[each.number])


def _summaries(each: Pass) -> Mapping[int, Summary]:
    """The summaries of the results that can be read, by chunk."""
    results, doubted = each.results, each.results.doubted()
    names = {chunk: name for chunk, (name, _) in results.sizes().items() if chunk not in doubted}
    found = request_each(lambda chunk: (chunk, results.summary(names[chunk])), names)
    return {chunk: summary for chunk, summary in found if summary is not None}


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
        "it ends, or stop it. If it is dead, run again after that time"
    )


def now() -> datetime:
    """The time in UTC."""
    return datetime.now(UTC)
