"""Menus: the aspects that the training reviews of each item mention."""

from functools import cached_property

import numpy as np

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
            items, aspects = self._rows
            first, end = np.searchsorted(items, [item_index, item_index + 1])
            self._found[item_index] = frozenset(self.names[index] for index in aspects[first:end])
        return self._found[item_index]

    @cached_property
    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        """The columns of `item_aspects`, which is sorted by item."""
        assert self._of_items is not None
        items, aspects = (
            self._of_items[name].to_numpy() for name in ("item_index", "aspect_index")
        )
        return items, aspects
