"""The top-k items of users by dot product, without the items that they have seen.

Users are scored chunk by chunk, so that no (users x items) matrix is held.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch_geometric.utils.sparse import index2ptr

from xrec.graph.adjacency import check_edges
from xrec.graph.artifact import GraphEmbeddings

_SCORES_PER_CHUNK = 4_000_000  # 16 MB of float32 scores at a time


class SeenItems:
    """The items that each user has interacted with; a ranking leaves them out."""

    def __init__(self, edges: Tensor, num_users: int) -> None:
        """Sort `edges` (2, E) int64 by user: user indices in row 0, item indices in row 1."""
        order = torch.argsort(edges[0])
        self._items = edges[1, order]
        self._first = index2ptr(edges[0, order], num_users)

    def of(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Return positions in `users` (B,) int64 and the items seen there, (M,) int64 each."""
        counts = self._first[users + 1] - self._first[users]
        rows = torch.repeat_interleave(torch.arange(len(users)), counts)
        within = torch.arange(len(rows)) - torch.repeat_interleave(
            counts.cumsum(0) - counts, counts
        )
        return rows, self._items[self._first[users][rows] + within]


def recommend(
    graph: GraphEmbeddings, train_edges: Tensor, user_indices: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Return the k best items of each user that are not among its `train_edges`, best first.

    `train_edges` (2, E) int64, `user_indices` (N,) int64 -> items (N, k) int64, scores (N, k)
    float32. A user with fewer than k unseen items has -1 and -inf at the end. Among equal scores
    the lower item index comes first. Raises ValueError if k is not in 1 to the number of items or a
    user index is out of range, DataError if an edge is out of range or a vector is not finite.
    """
    num_users, num_items = graph.users.shape[0], graph.items.shape[0]
    if (
        len(user_indices)
        and not 0 <= int(user_indices.min()) <= int(user_indices.max()) < num_users
    ):
        raise ValueError(
            f"user_indices must be 0 to {num_users - 1}, "
            f"saw {int(user_indices.min())} to {int(user_indices.max())}"
        )
    if train_edges.shape[1]:
        check_edges(train_edges, num_users, num_items)
    graph.check_finite()
    chunks = list(
        top_k_items(graph.users, graph.items, SeenItems(train_edges, num_users), user_indices, k)
    )
    if not chunks:
        return torch.empty(0, k, dtype=torch.int64), torch.empty(0, k)
    return torch.cat([items for _, items, _ in chunks]), torch.cat(
        [scores for _, _, scores in chunks]
    )


def top_k_items(
    users: Tensor, items: Tensor, seen: SeenItems, user_indices: Tensor, k: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the result of `recommend` chunk by chunk: user indices (B,), items and scores (B, k).

    users (U, D) and items (I, D) must be finite. Items are int64; items and scores are on the
    device of `users`. Raises ValueError if k is not in 1 to I.
    """
    num_items = items.shape[0]
    if not 1 <= k <= num_items:
        raise ValueError(f"k must be 1 to {num_items}, the number of items; saw {k}")
    for chunk in user_indices.split(max(1, _SCORES_PER_CHUNK // num_items)):
        scores = users[chunk.to(users.device)] @ items.T  # (B, I)
        rows, seen_items = seen.of(chunk)
        scores[rows.to(users.device), seen_items.to(users.device)] = -torch.inf
        best, indices = stable_top_k(scores, k)
        yield chunk, indices.masked_fill(best == -torch.inf, -1), best


def stable_top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row of (B, I), in order, and their indices, (B, k) each.

    Among equal scores the lower index comes first. `topk` alone picks any of them. Asking it for
    one more than k finds the rows where that matters, and only those are sorted.
    """
    best = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    values, indices = best.values[:, :k], best.indices[:, :k]
    equal = (best.values[:, 1:] == best.values[:, :-1]) & (best.values[:, 1:] != -torch.inf)
    tied = equal.any(dim=1).nonzero().squeeze(1)
    if len(tied):
        ordered = scores[tied].sort(dim=1, descending=True, stable=True)
        values, indices = values.clone(), indices.clone()
        values[tied], indices[tied] = ordered.values[:, :k], ordered.indices[:, :k]
    return values, indices
