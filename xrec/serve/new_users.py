"""Vectors of users that the dataset does not know, computed from the items in a request.

They are written to reserved rows of the graph's table of users.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from xrec.data.dataset import Dataset
from xrec.errors import DataError
from xrec.graph.artifact import GraphEmbeddings
from xrec.graph.fold_in import FoldIn


class NewUsers:
    """Lends the rows of `graph.users` from `dataset.num_users` on, and writes to them."""

    def __init__(self, dataset: Dataset, graph: GraphEmbeddings):
        self._dataset, self._users = dataset, graph.users
        trained, *later = dataset.seen_edges()
        users = graph.users[: dataset.num_users]
        self._fold_in = FoldIn.of_users(users, graph.items, torch.from_numpy(trained))
        self._has_vector = np.zeros(dataset.num_items, dtype=np.bool_)
        for edges in (trained, *later):
            self._has_vector |= np.bincount(edges[1], minlength=dataset.num_items) > 0
        self._free = list(range(dataset.num_users, len(graph.users)))

    @contextmanager
    def row(self, history: Sequence[str]) -> Iterator[int]:
        """Give a user index whose row holds the vector of a user with these items, until exit.

        There are as many rows as pairs that may be at work or wait. Items without training
        interactions do not count. Raises UnknownIdError for an unknown item, DataError if none
        counts.
        """
        indices = {self._dataset.item_index(item_id) for item_id in history}
        items = sorted(index for index in indices if self._has_vector[index])
        if not items:
            raise DataError(
                f"none of the history's {len(indices)} items has training interactions; "
                "name an item that has"
            )
        index = self._free.pop()
        edges = torch.tensor([[0] * len(items), items])
        try:
            self._users[index] = self._fold_in.vectors(edges)[0].to(self._users.dtype)
            yield index
        finally:
            self._free.append(index)
