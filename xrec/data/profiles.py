"""The profiles of a pair's user and item, in training without what the pair's own review says."""

from functools import cached_property

from xrec.data.dataset import Dataset, edges_of


class Profiles:
    """The profiles of a dataset."""

    def __init__(self, dataset: Dataset):
        self._users = dataset.users["profile"].combine_chunks()
        self._items = dataset.items["profile"].combine_chunks()
        self._dataset = dataset

    def of(self, user_index: int, item_index: int, *, leave_out_own: bool) -> tuple[str, str]:
        """The profile of the user, and that of the item.

        With `leave_out_own`, those of an explained training pair are the ones that were written
        without its review, if the dataset has such ones (`Dataset.training_profiles`).
        """
        written, row = self._dataset.training_profiles, self.training_row(user_index, item_index)
        if leave_out_own and written is not None and row is not None:
            return written["user_profile"][row].as_py(), written["item_profile"][row].as_py()
        return self._users[user_index].as_py(), self._items[item_index].as_py()

    def training_row(self, user_index: int, item_index: int) -> int | None:
        """The place of a pair among the explained training pairs; None if it is none."""
        return self._training_rows.get((user_index, item_index))

    @cached_property
    def _training_rows(self) -> dict[tuple[int, int], int]:
        pairs = edges_of(self._dataset.explained_pairs("train"))
        return {(user, item): row for row, (user, item) in enumerate(pairs.T.tolist())}
