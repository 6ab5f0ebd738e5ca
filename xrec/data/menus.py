"""Menus: the aspects that the training reviews of each item mention.

Those are left out that at least as many of its reviews blame as praise.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from xrec.data.dataset import Dataset


class Menus:
    """The menus of a dataset's items; all are empty if the dataset has no aspects."""

    def __init__(self, dataset: Dataset):
        self._aspects, self._of_items = dataset.aspects, dataset.item_aspects
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
        negative = self._columns["num_negative"]
        return (negative > 0) & (negative >= self._columns["num_positive"])

    @cached_property
    def _columns(self) -> dict[str, NDArray[np.int32]]:
        assert self._of_items is not None
        names = ("item_index", "aspect_index", "num_positive", "num_negative")
        return {name: self._of_items[name].to_numpy() for name in names}
