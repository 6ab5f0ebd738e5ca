"""Finds the row of an ID or a number by binary search over a memory-mapped column.

Rows are in the order of their IDs, except in a dataset that extends another one, where a mapped
column lists the rows in that order. No dictionary is kept in memory.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import dropwhile, takewhile

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


class IdIndex:
    """Finds the rows of `ids`, N distinct strings; a lookup takes about 20 microseconds.

    order: the rows in the order of their IDs, without holes. If it is missing and the column is not
    sorted, the order is computed in memory.
    """

    def __init__(self, ids: pa.ChunkedArray, order: pa.ChunkedArray | None = None):
        if order is None and pc.any(pc.less(ids[1:], ids[: max(0, len(ids) - 1)])).as_py():
            order = pc.sort_indices(ids)
        self._ids, self._order = ids, order

    def __len__(self) -> int:
        """Return the number of IDs."""
        return len(self._ids if self._order is None else self._order)

    def find(self, wanted: str) -> int | None:
        """Return the row of an ID, or None if it is unknown."""
        place = self._place(wanted)
        return self._row(place) if place < len(self) and self._id(place) == wanted else None

    def rows(self, wanted: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
        """Return the row of each of M IDs, (M,) int64; -1 for unknown IDs."""
        distinct = wanted.unique()
        found = (self.find(each) for each in distinct.to_pylist())
        rows = np.array([-1 if row is None else row for row in found], dtype=np.int64)
        return np.asarray(rows[pc.index_in(wanted, distinct).to_numpy()])

    def starting_with(self, prefix: str, after: str = "") -> Iterator[str]:
        """Yield, in order, the IDs that start with `prefix` and sort after `after`."""
        following = map(self._id, range(self._place(max(prefix, after)), len(self)))
        later = dropwhile(lambda each: after and each <= after, following)
        return takewhile(lambda each: each.startswith(prefix), later)

    def _place(self, wanted: str) -> int:
        return bisect_left(range(len(self)), wanted, key=self._id)

    def _row(self, place: int) -> int:
        return place if self._order is None else int(self._order[place].as_py())

    def _id(self, place: int) -> str:
        return str(self._ids[self._row(place)].as_py())


def rows_of(column: pa.ChunkedArray, value: int) -> range:
    """Return the range of rows where a sorted column of numbers has a value."""
    rows = range(len(column))
    ends = (
        side(rows, value, key=lambda row: column[row].as_py())
        for side in (bisect_left, bisect_right)
    )
    return range(*ends)
