"""Menus: the aspects that the training reviews of each item mention.

Those are left out that at least as many of its reviews blame as praise; low-rated ones count.
"""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xrec.data.dataset import Dataset


class Menus:
    """The menus of a dataset's items; all are empty if the dataset has no aspects."""

    def __init__(self, dataset: Dataset):
        self._aspects, self._of_items = dataset.aspects, dataset.item_aspects
        self._low_rated = dataset.low_rated_aspects
        self._found: dict[int, frozenset[str]] = {}

    @cached_property
    def names(self) -> list[str]:
        """The names of all aspects, by their index."""
        return [] if self._aspects is None else self._aspects["aspect"].to_pylist()

    def of(self, item_index: int) -> frozenset[str]:
        """The names of the aspects on an item's menu."""
        if self._of_items is None:
            return frozenset()
        if item_index not in self._found:
            rows = self._rows_of(item_index)
            aspects = self._columns["aspect_index"][rows][~self._is_blamed[rows]]
            self._found[item_index] = frozenset(self.names[index] for index in aspects)
        return self._found[item_index]

    def num_mentioned(self, item_index: int) -> int:
        """How many aspects the item's reviews mention, those that they blame included."""
        if self._of_items is None:
            return 0
        rows = self._rows_of(item_index)
        return int(rows.stop - rows.start)

    def _rows_of(self, item_index: int) -> slice:
        """Where an item's rows are: `item_aspects` is sorted by item."""
        items = self._columns["item_index"]
        return slice(*np.searchsorted(items, [item_index, item_index + 1]))

    @cached_property
    def _is_blamed(self) -> NDArray[np.bool_]:
        margins = self._columns["num_positive"] - self._columns["num_negative"]
        is_blamed = self._columns["num_negative"] > 0
        if self._low_rated is not None:
            keys, others = _keys(self._columns), _arrays(self._low_rated)
            places = np.searchsorted(keys, _keys(others)).clip(max=len(keys) - 1)
            there = keys[places] == _keys(others)
            margins[places[there]] += (others["num_positive"] - others["num_negative"])[there]
            is_blamed[places[there]] |= others["num_negative"][there] > 0
        return np.asarray(is_blamed & (margins <= 0))

    @cached_property
    def _columns(self) -> dict[str, NDArray[np.int32]]:
        assert self._of_items is not None
        return _arrays(self._of_items)


def _arrays(counts: pa.Table) -> dict[str, NDArray[np.int32]]:
    names = ("item_index", "aspect_index", "num_positive", "num_negative")
    return {name: counts[name].to_numpy() for name in names}


def _keys(columns: Mapping[str, NDArray[np.int32]]) -> NDArray[np.int64]:
    """One number for the item and the aspect of each row, in the order of the rows."""
    return (columns["item_index"].astype(np.int64) << 32) + columns["aspect_index"]
