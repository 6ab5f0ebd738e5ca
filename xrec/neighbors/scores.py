"""The part of a score that comes from neighbors: b times the sum of w_ji over the history.

    s(u, i) = z_u . z_i + b * sum over j in N_u of w_ji

z are the graph's vectors, N_u the user's history, w_ji the weights of xrec.neighbors.build. What
ranks the validation pairs best is chosen: b, and how much w_ji favors popular items i (`fit`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from xrec.data import Dataset
from xrec.graph.ranking import SeenItems, stable_top_k, users_with_items

RELATIVE_WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""The values of b that `fit` tries, relative to the standard deviations of the two parts."""
POWERS = (0.5, 0.25, 0.0)
"""The powers of an item's number of users that `fit` tries to divide by."""
_SCORES_AT_ONCE, _USERS_OF_SCALE, _K = 2**24, 512, 20


def histories(dataset: Dataset) -> SeenItems:
    """Return what users chose and did not dislike, by the training interactions alone."""
    edges, lost = (torch.from_numpy(part) for part in (dataset.chosen_edges(), dataset.lost_items))
    return SeenItems(edges, lost)


class NeighborScores:
    """Sums over the histories of users."""

    def __init__(self, weights: Any, history: SeenItems, weight: float = 1.0):
        """Take w_ji as a matrix (I, I) of `xrec.neighbors.build.pair_matrix`, and b."""
        self._weights, self._history, self._weight = weights, history, np.float32(weight)

    def of(self, users: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return positions in `users` (B,), items, and sums that are not zero, (M,) each."""
        # With another type of index in the history, SciPy would copy the indices of all weights.
        index = self._weights.indices.dtype
        rows, items = (part.numpy().astype(index) for part in self._history.of(users))
        values, shape = np.ones(len(rows), np.float32), (len(users), self._weights.shape[0])
        sums = (sp.csr_array((values, (rows, items)), shape=shape) @ self._weights).tocoo()
        of, added = (torch.from_numpy(part.astype(np.int64)) for part in (sums.row, sums.col))
        return of, added, torch.from_numpy(self._weight * sums.data)


@dataclass(frozen=True)
class Fit:
    """The weight b, the power of an item's number of users, and recall@20 with them."""

    weight: float
    power: float
    recall: float


def fit(
    users: Tensor,
    items: Tensor,
    scores: NeighborScores,
    num_people: Tensor,
    history: SeenItems,
    held_out: Tensor,
    *,
    most_users: int = 10_000,
    k: int = _K,
    relative: Sequence[float] = RELATIVE_WEIGHTS,
    powers: Sequence[float] = POWERS,
) -> list[Fit]:
    """Return what was tried, by recall@k on the `held_out` edges (2, E), the best first.

    users (U, D), items (I, D) float32. num_people: (I,), how many people chose each item; `scores`
    were divided by its root. Of equals, the first tried counts. At most `most_users` users are
    ranked. Without held-out edges, b gives both parts the same standard deviation.
    """
    some = users_with_items(held_out, most_users) if held_out.numel() else torch.arange(len(users))
    truth, factors = SeenItems(held_out), {p: num_people.clamp(min=1) ** (0.5 - p) for p in powers}
    at_once = max(1, _SCORES_AT_ONCE // len(items))
    sample = some[:: max(1, len(some) // min(at_once, _USERS_OF_SCALE))].contiguous()
    scales = {p: _scale(users, items, scores, factors[p], sample) for p in powers}
    if not held_out.numel():
        return [Fit(scales[powers[0]], powers[0], 0.0)]
    hits = {(p, r): 0.0 for p in powers for r in relative if r or p == powers[0]}
    for chunk in some.split(at_once):
        vectors = users[chunk] @ items.T
        rows, columns, sums = scores.of(chunk)
        vectors[history.of(chunk)] = -torch.inf
        vectors[:, history.lost] = -torch.inf
        is_right = torch.zeros_like(vectors, dtype=torch.bool)
        is_right[truth.of(chunk)] = True
        for p, r in hits:
            values = r * scales[p] * factors[p][columns] * sums
            both = vectors.index_put((rows, columns), values, accumulate=True)
            best = stable_top_k(both, min(k, len(items)))[1]
            hits[p, r] += float((is_right.gather(1, best).sum(1) / is_right.sum(1)).sum())
    fits = [Fit(r * scales[p], p, total / len(some)) for (p, r), total in hits.items()]
    return sorted(fits, key=lambda each: -each.recall)


def _scale(
    users: Tensor, items: Tensor, scores: NeighborScores, factor: Tensor, some: Tensor
) -> float:
    """Return the standard deviation of the vectors' scores over that of the nonzero sums."""
    _, columns, sums = scores.of(some)
    if len(sums) < 2 or not (spread := float((sums * factor[columns]).std())):
        return 0.0
    return (float((users[some] @ items.T).std()) or 1.0) / spread


def rounded(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return scores (N,) rounded to two digits, which hide what a single person adds to them."""
    powers = 10.0 ** (1 - np.floor(np.log10(np.maximum(np.abs(scores), 1e-30), dtype=np.float64)))
    return np.asarray(np.round(scores * powers) / powers, np.float32)
