"""The row of an id, by binary search over the mapped column that has them.

A column is a few sorted runs, one behind the other: the ids of a dataset in their order, and those
of a cold start behind them. No dictionary is held.
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import chain, islice, pairwise, takewhile
from operator import methodcaller

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_MOST_RUNS = 16
_as_str = methodcaller("as_py")


class IdIndex:
    """The rows of `ids` (N,), N different strings; a look-up takes some 20 microseconds.

    A column of more than 16 runs is sorted in memory.
    """

    def __init__(self, ids: pa.ChunkedArray):
        starts = _run_starts(ids)
        self._order: npt.NDArray[np.int64] | None = None
        if len(starts) > _MOST_RUNS:
            self._order = pc.sort_indices(ids).to_numpy().astype(np.int64)
            ids, starts = ids.take(pa.array(self._order)), [0]
        ends = pairwise([*starts, len(ids)])
        self._runs = [(start, ids.slice(start, end - start)) for start, end in ends]

    def find(self, wanted: str) -> int | None:
        """The row of an id; None if it is not there."""
        for start, run in self._runs:
            place = bisect_left(run, wanted, key=_as_str)
            if place < len(run) and run[place].as_py() == wanted:
                return start + place if self._order is None else int(self._order[place])
        return None

    def rows(self, wanted: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
        """The row of each id, (M,) int64, -1 where it is not there."""
        distinct = wanted.unique()
        found = (self.find(each) for each in distinct.to_pylist())
        rows = np.array([-1 if row is None else row for row in found], dtype=np.int64)
        return np.asarray(rows[pc.index_in(wanted, distinct).to_numpy()])

    def starting_with(self, prefix: str, limit: int) -> list[str]:
        """The first `limit` ids that begin with `prefix`, in order."""
        found = (islice(_starting_with(run, prefix), limit) for _, run in self._runs)
        return sorted(chain.from_iterable(found))[:limit]


def _starting_with(ids: pa.ChunkedArray, prefix: str) -> Iterator[str]:
    first = bisect_left(ids, prefix, key=_as_str)
    following = (ids[place].as_py() for place in range(first, len(ids)))
    return takewhile(lambda each: each.startswith(prefix), following)


def _run_starts(ids: pa.ChunkedArray) -> list[int]:
    """The rows where an id is smaller than the one before it, and row 0."""
    if not len(ids):
        return []
    descends = pc.less(ids.slice(1), ids.slice(0, len(ids) - 1))
    return [0, *(np.flatnonzero(descends.to_numpy()) + 1).tolist()]
