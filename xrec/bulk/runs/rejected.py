"""Rows of an input that are in no plan: their ids are invalid, or their user is forgotten."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from tempfile import TemporaryDirectory
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xrec.schemas import REJECTED
from xrec.storage import FORGOTTEN, Forgotten, Location


class Rejected:
    """Rejected rows (schema REJECTED), in a file on this machine's disk.

    reasons: how many there are of each reason. first: one of them, or none.
    """

    def __init__(self) -> None:
        self.reasons = Counter[str]()
        self.first = REJECTED.empty_table()
        self._folder = TemporaryDirectory(prefix="xrec-rejected-")
        self._file = f"{self._folder.name}/rejected.parquet"
        self._writer = pq.ParquetWriter(self._file, REJECTED, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()
        self._folder.cleanup()

    def add(self, rows: pa.Table) -> None:
        if rows.num_rows:
            counts = pc.value_counts(rows["reason"]).to_pylist()
            self.reasons.update({each["values"]: each["counts"] for each in counts})
            self.first = self.first if self.first.num_rows else rows.slice(0, 1)
            self._writer.write_table(rows.cast(REJECTED))

    def write(self, location: Location) -> None:
        """Write the file to `location`; no row can be added any more."""
        self._writer.close()
        location.write_file(self._file)


def good_rows(
    batches: Iterable[tuple[pa.Table, pa.Table]],
    rejected: Rejected,
    forgotten: Sequence[Forgotten],
) -> Iterator[pa.Table]:
    """The good rows but those of forgotten users, whom no rejected row names either."""
    for good, bad in batches:
        num_given = good.num_rows
        for some in forgotten:
            good = some.without(good)
        rejected.add(_nameless(bad, num_given - good.num_rows) if forgotten else bad)
        yield good


def _nameless(rejected: pa.Table, num_forgotten: int) -> pa.Table:
    """Rejected rows without their texts, and so many of forgotten users."""
    rows = rejected.drop_columns("text").append_column("text", pa.repeat("", rejected.num_rows))
    gone = {"file": "", "line": 0, "reason": FORGOTTEN, "text": ""}
    columns = {name: pa.repeat(value, num_forgotten) for name, value in gone.items()}
    tables = (rows.select(REJECTED.names), pa.table(columns))
    return pa.concat_tables(each.cast(REJECTED) for each in tables)


def first_of(rejected: pa.Table) -> str:
    """Where the first of the rejected rows is, and why, for a message that goes on with it."""
    if not rejected.num_rows:
        return ""
    row = rejected.slice(0, 1).to_pylist()[0]
    return f", the first at {row['file']}, line {row['line']}: {row['reason']} ({row['text']})"
