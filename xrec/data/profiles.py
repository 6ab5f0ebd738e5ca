"""The profiles of a pair's user and item; in training, without the pair's own review."""

from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from xrec.data.dataset import Dataset, index_keys, pair_keys


class Profiles:
    """The profiles of a dataset, read on demand."""

    def __init__(self, dataset: Dataset):
        self._dataset = dataset

    def of(self, user_index: int, item_index: int, *, leave_out_own: bool) -> tuple[str, str]:
        """Return the profiles of the user and the item.

        With `leave_out_own`, an explained training pair gets the profiles that were written without
        its review, if the dataset has them (`Dataset.training_profiles`).
        """
        written = self._dataset.training_profiles
        if leave_out_own and written is not None:
            row = self.training_row(user_index, item_index)
            if row is not None:
                return written["user_profile"][row].as_py(), written["item_profile"][row].as_py()
        users, items = self._dataset.users["profile"], self._dataset.items["profile"]
        return users[user_index].as_py(), items[item_index].as_py()

    def training_row(self, user_index: int, item_index: int) -> int | None:
        """Return the row of a pair among the explained training pairs; None if it is not one."""
        key = index_keys(user_index, item_index)
        row = int(np.searchsorted(self._training_keys, key))
        there = row < len(self._training_keys) and self._training_keys[row] == key
        return row if there else None

    @cached_property
    def _training_keys(self) -> npt.NDArray[np.int64]:
        """The `pair_keys` of the explained training pairs, in ascending order."""
        pairs = self._dataset.explanations.select(["user_index", "item_index", "split"])
        keys = pair_keys(pairs.filter(pc.equal(pairs["split"], "train")))
        assert (keys[1:] > keys[:-1]).all(), "the explanations are not sorted"
        return keys
