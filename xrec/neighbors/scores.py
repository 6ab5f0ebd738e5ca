"""The part of a score that comes from neighbors: b times the sum of w_ji over the history.

    s(u, i) = z_u . z_i + b * sum over j in N_u of w_ji

z are the graph's vectors, N_u the user's training interactions, w_ji the weights of
xrec.neighbors.build. b is what ranks the validation pairs best (`fit_weight`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from xrec.graph.ranking import SeenItems, stable_top_k, users_with_items

RELATIVE_WEIGHTS = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""What `fit_weight` tries, relative to the standard deviations of both parts of the score."""
_USERS_AT_ONCE, _USERS_OF_SCALE = 512, 512


class NeighborScores:
    """Sums over the histories `seen` of users, among `num_items` items."""

    def __init__(
        self,
        starts: npt.NDArray[Any],
        targets: npt.NDArray[Any],
        weights: npt.NDArray[np.float32],
        seen: SeenItems,
    ):
        """Take the arrays of `xrec.neighbors.build.Neighbors`."""
        self.num_items = len(starts) - 1
        shape = self.num_items, self.num_items
        self._weights = sp.csr_array((weights, targets, starts), shape=shape)
        self._seen = seen

    def of(self, users: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return positions in `users` (B,), items, and sums that are not zero, (M,) each."""
        rows, items = (part.numpy() for part in self._seen.of(users))
        values = np.ones(len(rows), np.float32)
        history = sp.csr_array((values, (rows, items)), shape=(len(users), self.num_items))
        sums = (history @ self._weights).tocoo()
        return tuple(map(torch.from_numpy, (sums.row, sums.col, sums.data)))  # type: ignore[return-value]


def fit_weight(
    users: Tensor,
    items: Tensor,
    scores: NeighborScores,
    seen: SeenItems,
    held_out: Tensor,
    *,
    most_users: int = 20_000,
    k: int = 20,
    relative: Sequence[float] = RELATIVE_WEIGHTS,
) -> tuple[float, Mapping[float, float]]:
    """Return b, and recall@k by each tried b, on the `held_out` edges (2, E).

    users (U, D), items (I, D) float32. The smallest b of those with the best recall counts. At
    most `most_users` users are ranked. Without held-out edges, b gives both parts the same
    standard deviation.
    """
    some = users_with_items(held_out, most_users) if held_out.numel() else torch.arange(len(users))
    scale = _scale(users, items, scores, some[:: max(1, len(some) // _USERS_OF_SCALE)])
    if not held_out.numel() or scale == 0:
        return scale, {}
    truth, hits = SeenItems(held_out), dict.fromkeys(relative, 0.0)
    for chunk in some.split(_USERS_AT_ONCE):
        vectors = users[chunk] @ items.T
        rows, columns, sums = scores.of(chunk)
        vectors[seen.of(chunk)] = -torch.inf
        vectors[:, seen.lost] = -torch.inf
        is_right = torch.zeros_like(vectors, dtype=torch.bool)
        is_right[truth.of(chunk)] = True
        for weight in relative:
            both = vectors.index_put((rows, columns), weight * scale * sums, accumulate=True)
            best = stable_top_k(both, min(k, len(items)))[1]
            found = is_right.gather(1, best).sum(1) / is_right.sum(1)
            hits[weight] += float(found.sum())
    recalls = {weight * scale: total / len(some) for weight, total in hits.items()}
    return max(recalls, key=recalls.__getitem__), recalls


def _scale(users: Tensor, items: Tensor, scores: NeighborScores, some: Tensor) -> float:
    """Return the standard deviation of the vectors' scores over that of the nonzero sums."""
    sums = scores.of(some)[2]
    if len(sums) < 2 or not float(sums.std()):
        return 0.0
    return float((users[some] @ items.T).std() / sums.std())
