"""Vectors of users that the dataset does not know, from the items that a request tells: written to reserved rows of the graph."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import torch

from xrec.data.dataset import Dataset
from xrec.errors import DataError
from xrec.graph.artifact import GraphEmbeddings
from xrec.graph.fold_in import FoldIn


class NewUsers:
    """Lends rows `dataset.num_users` to the end of `graph.users`, which it writes; one event loop's."""

    def __init__(self, dataset: Dataset, graph: GraphEmbeddings):
        self._dataset, self._users = dataset, graph.users
        edges = torch.from_numpy(dataset.interaction_edges("train"))
        self._fold_in = FoldIn.fit(graph.users[: dataset.num_users], graph.items, edges)
        self._has_vector = np.bincount(edges[1].numpy(), minlength=dataset.num_items) > 0
        self._free = list(range(dataset.num_users, len(graph.users)))
        self._freed = asyncio.Event()

    def items(self, history: Sequence[str]) -> list[int]:
        """Indices of the items that a vector comes from; raises UnknownIdError, or DataError if there are none."""
        indices = sorted({self._dataset.item_index(item_id) for item_id in history})
        usable = [index for index in indices if self._has_vector[index]]
        if not usable:
            raise DataError(
                f"none of the history's {len(indices)} items has training interactions; name an item that has"
            )
        return usable

    @asynccontextmanager
    async def row(self, items: Sequence[int]) -> AsyncIterator[int]:
        """A user index that has the vector of someone with these items, until the `with` ends; waits for a free one."""
        while not self._free:
            self._freed.clear()
            await self._freed.wait()
        index = self._free.pop()
        try:
            self._users[index] = self._fold_in.users([list(items)])[0].to(self._users.dtype)
            yield index
        finally:
            self._free.append(index)
            self._freed.set()
