"""Finds rows that kill their process: a range of rows is halved until one row is left.

An actor that is lost (by a crash, the kernel, or the loss of its node) cannot report anything. So
an attempt writes the record `attempts/<chunk>/<start>-<stop>.<n>` before the rows from start to
stop go to the engine, and deletes it if the engine raises an error. Later attempts at the chunk
count the records of a range: each is an attempt that died.

A whole chunk is tried twice, because a node may be lost through no fault of a row. After that each
half is tried once, then each quarter, and so on. A single row is tried twice; then it becomes a
failed row with the reason `engine_error`. The results of parts are kept in the store, so a death
costs only the work on its range. If a second driver works on the chunk, or a record remains of an
attempt that did not die, ranges are split or repeated more often than needed, but no row is lost.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from xrec.backfill.chunk import chunk_name
from xrec.schemas import FAILED, GENERATED
from xrec.storage import Location, read_table, write_table

_CHANCES_OF_CHUNK = 2
_CHANCES_OF_PART = 1
_CHANCES_OF_ROW = 2


@dataclass(frozen=True)
class Outcome:
    """What became of some pairs: explanations (schema GENERATED) and failed rows (FAILED).

    Both tables are sorted by user and item.
    """

    generated: pa.Table
    failed: pa.Table


class Attempts:
    """The attempts at the `num_rows` rows of a chunk, as recorded below `root`."""

    def __init__(self, root: Location, chunk: int, num_rows: int):
        self._folder = root / "attempts" / chunk_name(chunk)
        self._num_rows = num_rows
        self._records = self._folder.files()

    @property
    def num_deaths(self) -> int:
        """How many attempts at any range of this chunk died."""
        return sum(name.rpartition(".")[2].isdigit() for name in self._records)

    def explain(
        self, explain: Callable[[int, int], Outcome], condemn: Callable[[int, int], Outcome]
    ) -> list[Outcome]:
        """Explain all rows of the chunk; returns the outcomes of consecutive ranges, in order.

        `explain(start, stop)` explains a range of rows. `condemn(row, deaths)` returns a row as
        failed after `deaths` attempts at it alone died.
        """
        return self._explain(0, self._num_rows, explain, condemn)

    def _explain(
        self,
        start: int,
        stop: int,
        explain: Callable[[int, int], Outcome],
        condemn: Callable[[int, int], Outcome],
    ) -> list[Outcome]:
        deaths = sum(
            name.startswith(f"{start}-{stop}.") and name.rpartition(".")[2].isdigit()
            for name in self._records
        )
        if f"{start}-{stop}.failed.parquet" in self._records:
            return [self._kept(start, stop)]
        if deaths < self._chances(start, stop):
            return [self._attempt(start, stop, deaths, explain)]
        if stop - start == 1:
            return [condemn(start, deaths)]
        middle = (start + stop) // 2
        return [
            *self._explain(start, middle, explain, condemn),
            *self._explain(middle, stop, explain, condemn),
        ]

    def _chances(self, start: int, stop: int) -> int:
        if stop - start == 1:
            return _CHANCES_OF_ROW
        return _CHANCES_OF_CHUNK if stop - start == self._num_rows else _CHANCES_OF_PART

    def _attempt(
        self, start: int, stop: int, deaths: int, explain: Callable[[int, int], Outcome]
    ) -> Outcome:
        record = self._folder / f"{start}-{stop}.{deaths + 1}"
        record.create_bytes(b"")
        try:
            result = explain(start, stop)
        except BaseException:
            record.delete()
            raise
        if stop - start < self._num_rows:
            self._keep(start, stop, result)
        return result

    def _keep(self, start: int, stop: int, result: Outcome) -> None:
        """Store the outcome of a part.

        The file of failed rows is written last, even if it has no rows: it marks the range as done.
        """
        write_table(self._folder / f"{start}-{stop}.generated.parquet", result.generated, GENERATED)
        write_table(self._folder / f"{start}-{stop}.failed.parquet", result.failed, FAILED)

    def _kept(self, start: int, stop: int) -> Outcome:
        names = [f"{start}-{stop}.{kind}.parquet" for kind in ("generated", "failed")]
        return Outcome(
            read_table(self._folder / names[0], GENERATED),
            read_table(self._folder / names[1], FAILED),
        )
