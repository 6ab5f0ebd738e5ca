"""Rows that kill their process are found by the records of the attempts that died: a range of rows is halved until one is left.

An actor that is lost (a crash, the kernel, a node) can say nothing afterwards. So an attempt writes
`attempts/<chunk>/<start>-<stop>.<n>` before rows start to stop go to the engine, and takes it away if it lives to see an
error. Whoever comes next counts the records of a range: those that began it and died. A whole chunk is tried twice, since
a node may be lost by no fault of a row; after that its halves are, each once, and so on; one row alone is tried twice and
then is an `engine_error`. The halves' results are kept in the store, so that one death costs one range.
A second driver or a false death can only split or repeat more than is needed.
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
class Explained:
    """Explanations (schema GENERATED) and failed rows (FAILED) of some pairs, each by user and item."""

    generated: pa.Table
    failed: pa.Table


class Attempts:
    """The attempts at `num_rows` rows of a chunk; `explain(start, stop)` does a range, `condemn(row, deaths)` gives up on one row."""

    def __init__(self, root: Location, chunk: int, num_rows: int):
        self._folder = root / "attempts" / chunk_name(chunk)
        self._num_rows = num_rows
        self._records = self._folder.files()

    @property
    def num_deaths(self) -> int:
        """Attempts at any range of this chunk that died."""
        return sum(name.rpartition(".")[2].isdigit() for name in self._records)

    def explain(
        self, explain: Callable[[int, int], Explained], condemn: Callable[[int, int], Explained]
    ) -> list[Explained]:
        """The results of ranges that make up the chunk, in order."""
        return self._explain(0, self._num_rows, explain, condemn)

    def _explain(
        self,
        start: int,
        stop: int,
        explain: Callable[[int, int], Explained],
        condemn: Callable[[int, int], Explained],
    ) -> list[Explained]:
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
        self, start: int, stop: int, deaths: int, explain: Callable[[int, int], Explained]
    ) -> Explained:
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

    def _keep(self, start: int, stop: int, result: Explained) -> None:
        """The failed rows are written last, also where there are none: they tell that the range is done."""
        write_table(self._folder / f"{start}-{stop}.generated.parquet", result.generated, GENERATED)
        write_table(self._folder / f"{start}-{stop}.failed.parquet", result.failed, FAILED)

    def _kept(self, start: int, stop: int) -> Explained:
        names = [f"{start}-{stop}.{kind}.parquet" for kind in ("generated", "failed")]
        return Explained(
            read_table(self._folder / names[0], GENERATED),
            read_table(self._folder / names[1], FAILED),
        )
