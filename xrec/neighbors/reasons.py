"""Why an item was recommended, by what people did: the history item that contributed most.

A pair's score is s(u, i) = z_u . z_i + b sum_j w_ji (xrec.neighbors.scores). Item j of the history
contributes b w_ji and its part of the fold-in, which is linear in the history:

    c_j = b w_ji + (part_j W) . z_i,    sum_j part_j W = z_u as fold-in gives it

The kinds of reasons, in the order in which they are tried:

    others    the item with the largest c_j of those that enough people chose together with i, if
              its c_j is at least half of the largest: "at least 20 people who chose j chose this"
    history   the item with the largest c_j, if it is clearly the largest
    popular   how many people chose i, if they are enough

Numbers about other people are lower bounds in steps (xrec.neighbors.steps). Only training
interactions are counted, so a held-out pair is never among its own evidence.
"""

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from xrec.graph.fold_in import FoldIn
from xrec.neighbors.artifact import NeighborTable

Ints = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.float32]
Kind = Literal["others", "history", "popular"]
_LEAST_OF_LARGEST = 0.5
_CLEARLY_LARGEST = 1.5
"""How many times the second largest contribution the largest one is at least."""


@dataclass(frozen=True)
class Reason:
    """A reason for a pair.

    item: the index of the supporting item of the history; None if kind is popular.
    at_least: a lower bound of the people who chose both, or the recommended item if kind is
        popular; 0 if kind is history.
    """

    kind: Kind
    item: int | None
    at_least: int


@dataclass(frozen=True, eq=False)
class Reasons:
    """Finds reasons. excluded: (I,) bool, the items that never support."""

    table: NeighborTable
    fold_in: FoldIn
    excluded: npt.NDArray[np.bool_]

    def contributions(self, rows: Ints, history: Ints, items: Ints) -> Floats:
        """Return c_j of each `history` item for the score of `items[row]`: (M,) float32.

        rows, history: (M,) int64, the places in `items` (N,), ascending, and the history there.
        """
        if not len(rows):
            return np.empty(0, np.float32)
        parts = self.fold_in.parts(torch.from_numpy(rows), torch.from_numpy(history), len(items))
        targets = self.fold_in.items[torch.from_numpy(items[rows])]
        of_vectors = (parts * targets).sum(dim=1).numpy()
        return np.asarray(of_vectors + self.table.weighted(history, items[rows]), np.float32)

    def of(
        self, rows: Ints, history: Ints, items: Ints, before: Ints | None = None
    ) -> list[Reason | None]:
        """Return the reason of each of `items` (N,) for the history at its place, or None.

        rows, history: as `contributions` takes them. before: (N,) the supporting item that was
        shown last, or -1; it stays while it still qualifies.
        """
        shares = self.contributions(rows, history, items)
        is_usable = (history != items[rows]) & ~self.excluded[history] & (shares > 0)
        rows, history, shares = rows[is_usable], history[is_usable], shares[is_usable]
        bounds = self.table.bounds(history, items[rows])
        order = np.lexsort((history, -shares, rows))
        rows, history, shares, bounds = (part[order] for part in (rows, history, shares, bounds))
        starts = np.searchsorted(rows, np.arange(len(items) + 1))
        reasons = []
        for place, (first, stop) in enumerate(itertools.pairwise(starts)):
            last_shown = -1 if before is None else int(before[place])
            own = slice(first, stop)
            reason = _supported(history[own], shares[own], bounds[own], last_shown)
            bound = int(self.table.item_bounds[items[place]])
            reasons.append(reason or (Reason("popular", None, bound) if bound else None))
        return reasons


def _supported(history: Ints, shares: Floats, bounds: Ints, last_shown: int) -> Reason | None:
    """Return the reason by a history item; the items are sorted by their shares, largest first."""
    if not len(history):
        return None
    is_good = (bounds > 0) & (shares >= _LEAST_OF_LARGEST * shares[0])
    if is_good.any():
        kept = np.flatnonzero(is_good & (history == last_shown))
        chosen = int(kept[0] if len(kept) else is_good.argmax())
        return Reason("others", int(history[chosen]), int(bounds[chosen]))
    if len(history) == 1 or shares[0] >= _CLEARLY_LARGEST * shares[1]:
        return Reason("history", int(history[0]), 0)
    return None
