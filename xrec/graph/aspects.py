"""Aspects as nodes of the graph: who mentions what, and what is mentioned of which item.

The nodes are the users, then the items, then the aspects. An edge's weight grows with the number of
reviews and with how few items have the aspect, so that what all mention connects nobody:

    w(v, a) = ln(1 + c(v, a)) ln((I + 1) / (d(a) + 1))

c(v, a) is the number of training reviews of the user or item v that mention a, and d(a) the number
of items that have it. An interaction has weight 1.
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
    """E edges: nodes (E,) int64, users before items; aspects (E,) int64; weights (E,) float32.

    All weights are above 0, and no edge is there twice.
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


@dataclass(frozen=True, eq=False)
class AspectCounts:
    """In how many training reviews of a user, or an item, an aspect is, each aspect once a row.

    rows, aspects, counts: (E,) int64; a count is at least 1.
    """

    rows: Tensor
    aspects: Tensor
    counts: Tensor


def aspect_edges(
    of_users: AspectCounts,
    of_items: AspectCounts,
    *,
    num_users: int,
    num_items: int,
    num_aspects: int,
) -> AspectEdges:
    """Return the weighted edges of users and items."""
    having = torch.bincount(of_items.aspects, minlength=num_aspects)
    rarity = ((num_items + 1) / (having + 1)).log()
    sides = (of_users, of_items)
    weights = torch.cat([side.counts.float().log1p() * rarity[side.aspects] for side in sides])
    nodes = torch.cat([of_users.rows, of_items.rows + num_users])
    aspects = torch.cat([side.aspects for side in sides])
    there = weights > 0  # an aspect that every item has connects nobody
    return AspectEdges(nodes[there], aspects[there], weights[there], num_aspects)


def dataset_aspect_edges(dataset: Dataset) -> AspectEdges:
    """Return the edges of the dataset's aspects, from counts of training reviews.

    Raises DataError if the dataset has no aspects.
    """
    if dataset.aspects is None or dataset.item_aspects is None or dataset.user_aspects is None:
        raise DataError(
            "model.aspects is set, but the dataset has no aspects: expected one that was prepared "
            "from annotations (`xrec annotate`); prepare it so, or set model.aspects=false",
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


def _counts(table: pa.Table, row: str, num_aspects: int) -> AspectCounts:
    rows, aspects, counts = (
        table[name].to_numpy().astype(np.int64) for name in (row, "aspect_index", "num_reviews")
    )
    check_aspects(aspects, num_aspects, f"{row.split('_')[0]}_aspects")
    return AspectCounts(*map(torch.from_numpy, (rows, aspects, counts)))
