"""Why an item was recommended, by what people did: the history item that contributed most.

A pair's score is s(u, i) = z_u . z_i + b sum_j w_ji (xrec.neighbors.scores). Item j of the history
contributes b w_ji and its part of the fold-in, which is linear in the history:

    c_j = b w_ji + (part_j W) . z_i,    sum_j part_j W = z_u as fold-in gives it

The kinds of reasons, in the order in which they are tried:

    others     the item with the largest c_j of those that enough people chose together with i, if
               its c_j is at least half of the largest: "at least 20 people who chose j chose this"
    history    the item with the largest c_j, if it is clearly the largest
    category   the category of i, if at least two items of it contribute half of the positive c_j
    popular    how many people chose i, if they are enough
    abstained  nothing

Numbers of people are lower bounds in steps (xrec.neighbors.steps), and do not count the user. Only
training interactions are counted, so a held-out pair is never among its own evidence.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from xrec.graph.fold_in import FoldIn
from xrec.graph.ranking import SeenItems
from xrec.neighbors.artifact import NeighborTable

Ints = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.float32]
OTHERS, HISTORY, CATEGORY, POPULAR, ABSTAINED = range(5)
_LEAST_OF_LARGEST = 0.5
_CLEARLY_LARGEST = 1.5
"""How many times the second largest contribution the largest one is at least."""
_LEAST_OF_ALL = 0.5  # of the positive contributions, by items of one category
PARTS_AT_ONCE = 2**18


@dataclass(frozen=True, eq=False)
class Found:
    """The reasons of N pairs.

    kinds: (N,) places in `EVIDENCE_KINDS`. items: (N,) the supporting items, -1 for none.
    at_least: (N,) lower bounds of the people who chose both items, or the recommended one if the
        kind is popular; 0 for none.
    shares: (N,) the supporting item's part of all positive contributions.
    """

    kinds: Ints
    items: Ints
    at_least: Ints
    shares: Floats


@dataclass(frozen=True, eq=False)
class Reasons:
    """Finds reasons.

    excluded: (I,) bool, the items that never support. categories: (I,) each item's category,
    "" for none.
    """

    table: NeighborTable
    history: SeenItems
    fold_in: FoldIn | None
    excluded: npt.NDArray[np.bool_]
    categories: npt.NDArray[np.object_]

    def of(self, users: Ints, items: Ints, before: Ints | None = None) -> Found:
        """Return the reasons of pairs (N,), ascending by user, who have not chosen the items.

        before: (N,) the supporting item that was shown last, or -1; it stays while it qualifies.
        """
        last = np.full(len(items), -1) if before is None else before
        parts = [
            self._of_some(users[some], items[some], last[some]) for some in self._slices(users)
        ]
        names = ("kinds", "items", "at_least", "shares")
        return Found(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))

    def contributions(self, users: Ints, items: Ints) -> tuple[Ints, Ints, Floats]:
        """Return each pair's history: the places of pairs (M,), its items, and their c_j."""
        distinct, owners = np.unique(users, return_inverse=True)
        rows, chosen = self.history.of(torch.from_numpy(distinct))
        counts = np.bincount(rows.numpy(), minlength=len(distinct))
        starts, sizes = (np.cumsum(counts) - counts)[owners], counts[owners]
        pairs = np.repeat(np.arange(len(users)), sizes)
        within = np.arange(len(pairs)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        at = torch.from_numpy(starts[pairs] + within)
        history, targets = chosen[at].numpy(), items[pairs]
        shares = self.table.weighted(history, targets)
        if self.fold_in is not None:
            own = self.fold_in.parts(rows, chosen, len(distinct))
            vectors = self.fold_in.items[torch.from_numpy(targets)]
            shares = shares + (own[at] * vectors).sum(dim=1).numpy()
        return pairs, history, shares

    def _slices(self, users: Ints) -> Iterator[slice]:
        """Yield slices of pairs whose histories have about `PARTS_AT_ONCE` items in all."""
        edges = self.history.edges[0].numpy()
        sizes = np.searchsorted(edges, users, "right") - np.searchsorted(edges, users)
        blocks = np.cumsum(sizes) // PARTS_AT_ONCE
        bounds = [0, *(np.flatnonzero(np.diff(blocks)) + 1).tolist(), len(users)]
        return (slice(*pair) for pair in itertools.pairwise(bounds))

    def _of_some(self, users: Ints, items: Ints, before: Ints) -> Found:
        pairs, history, shares = self.contributions(users, items)
        can_support = (history != items[pairs]) & ~self.excluded[history] & (shares > 0)
        total = np.bincount(pairs, np.maximum(shares, 0), minlength=len(items))
        pairs, history, shares = (part[can_support] for part in (pairs, history, shares))
        order = np.lexsort((history, -shares, pairs))
        pairs, history, shares = (part[order] for part in (pairs, history, shares))
        bounds = self.table.bounds(history, items[pairs])
        first = np.searchsorted(pairs, np.arange(len(items)))
        largest = np.append(shares, 0)[first]
        # Of the items with a bound, the first one, or the one that was shown last.
        is_good = (bounds > 0) & (shares >= _LEAST_OF_LARGEST * largest[pairs])
        chosen = np.full(len(items), -1)
        for can in (is_good, is_good & (history == before[pairs])):
            places = np.flatnonzero(can)[::-1]  # of several, the first one is written last
            chosen[pairs[places]] = places
        # Otherwise the largest one, if it is clear.
        second = np.append(shares, [0, 0])[first + 1]
        has_second = np.append(pairs, [-1, -1])[first + 1] == np.arange(len(items))
        is_clear = largest >= _CLEARLY_LARGEST * np.where(has_second, second, 0)
        is_clear &= (largest > 0) & (np.append(pairs, -1)[first] == np.arange(len(items)))
        is_history = (chosen < 0) & is_clear
        at = np.where(chosen >= 0, chosen, np.where(is_history, first, -1))
        of_item = self.categories[items]
        is_alike = (of_item != "")[pairs] & (self.categories[history] == of_item[pairs])
        num_alike = np.bincount(pairs[is_alike], minlength=len(items))
        alike = np.bincount(pairs[is_alike], shares[is_alike], minlength=len(items))
        is_category = (at < 0) & (num_alike >= 2) & (alike >= _LEAST_OF_ALL * total)
        popular = self.table.item_bounds[items]
        is_popular = (at < 0) & ~is_category & (popular > 0)
        kinds = np.select(
            [chosen >= 0, is_history, is_category, is_popular],
            [OTHERS, HISTORY, CATEGORY, POPULAR],
            ABSTAINED,
        )
        at_least = np.select([chosen >= 0, is_popular], [np.append(bounds, 0)[at], popular], 0)
        return Found(
            kinds,
            np.where(at >= 0, np.append(history, -1)[at], -1),
            at_least,
            np.where(at >= 0, np.append(shares, 0)[at] / np.maximum(total, 1e-30), 0),
        )
