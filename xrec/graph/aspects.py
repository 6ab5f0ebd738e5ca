"""Aspects as nodes of the graph: who mentions what, and what is mentioned about which item.

The nodes are the users, then the items, then the aspects. An edge weighs more if more reviews
mention the aspect and if fewer items have it, so that aspects of all items connect nobody:

    w(v, a) = ln(1 + c(v, a)) ln((I + 1) / (d(a) + 1))

c(v, a) is the number of training reviews of the user or item v that mention a, and d(a) the number
of items that have a. An interaction has weight 1.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from xrec.data import Dataset, check_aspects
from xrec.errors import DataError


@dataclass(frozen=True, eq=False)
class AspectEdges:
    """E distinct edges: nodes (E,) int64, users before items; aspects (E,) int64; weights (E,).

    Weights are float32 and positive.
    """

    nodes: Tensor
    aspects: Tensor
    weights: Tensor
    num_aspects: int

    def __len__(self) -> int:
        """Return E."""
        return len(self.nodes)

    @property
    def pairs(self) -> Tensor:
        """Nodes and aspects, (2, E) int64."""
        return torch.stack([self.nodes, self.aspects])


NO_ASPECTS = AspectEdges(torch.empty(0).long(), torch.empty(0).long(), torch.empty(0), 0)
"""The aspects of a graph of users and items only."""


def aspect_edges(
    of_users: Tensor, of_items: Tensor, *, num_users: int, num_items: int, num_aspects: int
) -> AspectEdges:
    """Return the weighted edges of users and items.

    of_users, of_items: (3, E) int64, the user or item, the aspect, and the number of reviews.
    """
    having = torch.bincount(of_items[1], minlength=num_aspects)
    rarity = ((num_items + 1) / (having + 1)).log()
    weights = torch.cat(
        [counts.float().log1p() * rarity[aspects] for _, aspects, counts in (of_users, of_items)]
    )
    nodes = torch.cat([of_users[0], of_items[0] + num_users])
    aspects = torch.cat([of_users[1], of_items[1]])
    kept = weights > 0
    return AspectEdges(nodes[kept], aspects[kept], weights[kept], num_aspects)


def dataset_aspect_edges(dataset: Dataset) -> AspectEdges:
    """Return the edges of the dataset's aspects; raises DataError if it has none."""
    if dataset.aspects is None or dataset.item_aspects is None or dataset.user_aspects is None:
        raise DataError(
            "model.aspects is true, but the dataset has no aspects; prepare it from annotations "
            "(`xrec annotate`), or set model.aspects=false",
            code="no_aspects",
            key="model.aspects",
            saw=True,
        )
    return aspect_edges(
        _counts(dataset.user_aspects, "user_index", dataset.aspects.num_rows),
        _counts(dataset.item_aspects, "item_index", dataset.aspects.num_rows),
        num_users=dataset.num_users,
        num_items=dataset.num_items,
        num_aspects=dataset.aspects.num_rows,
    )


def _counts(table: pa.Table, row: str, num_aspects: int) -> Tensor:
    columns = [
        table[name].to_numpy().astype(np.int64) for name in (row, "aspect_index", "num_reviews")
    ]
    check_aspects(columns[1], num_aspects, f"{row.split('_')[0]}_aspects")
    return torch.from_numpy(np.stack(columns))
