"""The top-k unseen items of users by dot product, and how well they rank held-out items.

Users are scored in chunks, so that no (users x items) matrix is needed. Metrics are means over the
users with at least one held-out item. Let H be a user's held-out items, and the hits h_1 < h_2 <
... the ranks of items of H within the top k:

    recall    = hits / |H|
    precision = hits / k
    hit_rate  = 1 if there is a hit, else 0
    mrr       = 1 / h_1, 0 without a hit
    ndcg      = sum_j 1 / log2(h_j + 1), divided by the same sum over the ranks 1 to min(k, |H|)
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from xrec.data import Dataset
from xrec.graph.partition import Partition

SCORES_PER_CHUNK = 16_000_000  # 64 MB in float32; on a CPU, more is hardly faster
_BYTES_OF_A_SCORE = 32  # at most: the score, and its copy and index in the sort of rows with ties
_SHARE_OF_FREE_MEMORY = 0.5  # of a GPU, for a chunk

Ranked = Iterator[tuple[Tensor, Tensor, Tensor]]
"""Chunks of users (B,), with their best items and scores, (B, k) each."""

More = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""Returns additions to the scores of users (B,): positions in them, items, and values."""


class SeenItems:
    """The items that rankings leave out: those a user has seen, and for all users `lost` (G,)."""

    def __init__(self, edges: Tensor, lost: Tensor | None = None) -> None:
        """Take `edges` (2, E) int64 of users and items; if sorted by user, they are not copied."""
        users = edges[0]
        is_sorted = bool((users[1:] >= users[:-1]).all())
        self.edges = edges if is_sorted else edges[:, users.argsort()]
        self.lost = torch.empty(0, dtype=torch.int64) if lost is None else lost

    def with_lost(self, lost: Tensor) -> "SeenItems":
        """Return these items with other `lost` ones."""
        other = copy.copy(self)
        other.lost = lost
        return other

    def of(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Return positions in `users` (B,) int64 and the items these users saw, (M,) int64 each."""
        of, items = self.edges
        first, stop = (torch.searchsorted(of, users, right=right) for right in (False, True))
        counts = stop - first
        rows = torch.repeat_interleave(torch.arange(len(users)), counts)
        within = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
        return rows, items[first[rows] + within]


def seen_items(dataset: Dataset) -> SeenItems:
    """Return the items that are never recommended: `known_edges` of users, and lost items."""
    edges = torch.from_numpy(dataset.known_edges())
    return SeenItems(edges, torch.from_numpy(dataset.lost_items))


def top_k_items(
    users: Tensor,
    items: Tensor,
    seen: SeenItems,
    user_indices: Tensor,
    k: int,
    *,
    more: More | None = None,
    scores_per_chunk: int | None = None,
) -> Ranked:
    """Yield the k best unseen items of users in chunks: user indices (B,), items and scores (B, k).

    users (U, D) and items (I, D) must be finite. Items are int64, best first; among equal scores
    the lower index is first. Rows of users with fewer than k unseen items end with -1 and -inf.
    Results are on the device of `users`. k: 1 to I. more: additions to the dot products.
    scores_per_chunk: by default, as many as fit.
    """
    num_items = items.shape[0]
    assert 1 <= k <= num_items
    num_scores = scores_per_chunk or _scores_per_chunk(users.device)
    for chunk in user_indices.split(max(1, num_scores // num_items)):
        scores = users[chunk.to(users.device)] @ items.T  # (B, I)
        if more is not None:
            *places, values = (part.to(users.device) for part in more(chunk))
            scores.index_put_(tuple(places), values, accumulate=True)
        rows, seen_items = seen.of(chunk)
        scores[rows.to(users.device), seen_items.to(users.device)] = -torch.inf
        scores[:, seen.lost.to(users.device)] = -torch.inf
        best, indices = stable_top_k(scores, k)
        yield chunk, indices.masked_fill(best == -torch.inf, -1), best


def _scores_per_chunk(device: torch.device) -> int:
    """Return the number of scores to compute at a time; no result depends on it."""
    if device.type == "cpu":
        return SCORES_PER_CHUNK
    free, _ = torch.cuda.mem_get_info(device)
    fitting = int(_SHARE_OF_FREE_MEMORY * free) // _BYTES_OF_A_SCORE
    return min(fitting, 16 * SCORES_PER_CHUNK)


def top_k_of_blocks(
    vectors: Tensor,
    partition: Partition,
    sizes: tuple[int, int],
    seen: SeenItems,
    user_indices: Tensor,
    k: int,
) -> Ranked:
    """Yield on every worker what `top_k_items` yields, from its rows `vectors` (n, D). Collective.

    sizes: U and I. Each worker ranks its own items for all `user_indices`, which are the same on
    every worker, and the best of all workers are merged.
    """
    num_users, num_items = sizes
    first, stop = partition.num_own(num_users), partition.num_own(num_users + num_items)
    items, own = vectors[first:stop], partition.node_ids[first:stop].to(vectors.device) - num_users
    lost = partition.find(seen.lost + num_users)[1] - first
    # The same on every worker, whatever memory is free there.
    num_merged = partition.blocks.num_blocks * (k + vectors.shape[1])
    for chunk in user_indices.split(max(1, SCORES_PER_CHUNK // num_merged)):
        users, (of_users, seen_items) = partition.rows(vectors, chunk), seen.of(chunk)
        is_own, rows = partition.find(seen_items + num_users)
        own_seen = SeenItems(torch.stack([of_users[is_own], rows - first]), lost=lost)
        positions, scores = _best(users, items, own_seen, min(k, len(items)))
        indices = torch.cat([own, own.new_tensor([num_items])])[positions]
        missing = (0, k - scores.shape[1])
        scores = pad(scores, missing, value=-torch.inf)
        yield chunk, *_merged(pad(indices, missing, value=num_items), scores, partition)


def _best(users: Tensor, items: Tensor, seen: SeenItems, k: int) -> tuple[Tensor, Tensor]:
    """Return items and scores (B, k) of `top_k_items` for all `users` (B, D); k may be 0."""
    if k == 0:
        return users.new_empty(len(users), 0, dtype=torch.int64), users.new_empty(len(users), 0)
    chunks = top_k_items(users, items, seen, torch.arange(len(users)), k)
    _, positions, scores = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    return positions, scores


def _merged(indices: Tensor, scores: Tensor, partition: Partition) -> tuple[Tensor, Tensor]:
    """Return the k best of all workers' items and scores (B, k), with -1 where a score is -inf."""
    shape = partition.blocks.num_blocks, *scores.shape
    indices, scores = (
        partition.all_gather(each).view(shape).transpose(0, 1).flatten(1)
        for each in (indices, scores)
    )
    indices, order = indices.sort(dim=1)  # among equal scores the lower index is first
    best, positions = stable_top_k(scores.gather(1, order), shape[2])
    return indices.gather(1, positions).masked_fill(best == -torch.inf, -1), best


def stable_top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row of (B, I), in order, and their indices, (B, k) each.

    Among equal scores the lower index is first, while `topk` picks any. Asking it for one more than
    k finds the rows where that matters, and only those are sorted.
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


def ranking_report(
    users: Tensor,
    items: Tensor,
    train_edges: Tensor,
    held_out_edges: Tensor,
    ks: Sequence[int] = (10, 20, 50),
    *,
    most_users: int | None = None,
    seed: int = 0,
    lost_items: Tensor | None = None,
) -> dict[str, Any]:
    """Return a ranking's metrics for a manifest, as plain JSON values.

    users (U, D), items (I, D) float32. Users with at least one of `held_out_edges` (2, E) int64 are
    ranked, or at most `most_users` of them drawn with `seed`; there must be one. Their
    `train_edges` (2, E) and `lost_items` (G,) are left out. The metrics:

    - "num_users": number of users ranked; "num_held_out_users": number that could be;
    - the means of `metrics_of`;
    - "coverage@k": share of the I items in the top k of at least one of these users.
    """
    num_items = items.shape[0]
    held_out_users = users_with_items(held_out_edges)
    evaluated = _drawn(held_out_users, most_users, seed)
    assert len(evaluated)
    seen, held_out = SeenItems(train_edges, lost=lost_items), SeenItems(held_out_edges)
    ranked = top_k_items(users, items, seen, evaluated, min(max(ks), num_items))
    metrics, best_ranks = metrics_of(ranked, held_out, num_items, ks)
    return {
        "num_users": len(evaluated),
        "num_held_out_users": len(held_out_users),
        **metrics,
        **{f"coverage@{k}": float((best_ranks < min(k, num_items)).sum()) / num_items for k in ks},
    }


def users_with_items(edges: Tensor, most: int | None = None, *, seed: int = 0) -> Tensor:
    """Return the users (N,) with `edges` (2, E), ascending; at most `most`, drawn by `seed`."""
    return _drawn(torch.unique(edges[0]), most, seed)


def _drawn(users: Tensor, most: int | None, seed: int) -> Tensor:
    if most is None or len(users) <= most:
        return users
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(users), most, replace=False, shuffle=False)
    return users[torch.from_numpy(drawn)].sort().values


def metrics_of(
    ranked: Ranked, held_out: SeenItems, num_items: int, ks: Sequence[int]
) -> tuple[dict[str, float], Tensor]:
    """Return {"recall@k", "ndcg@k", "mrr@k", "precision@k", "hit_rate@k"} for each of `ks`.

    They are means over the users of `ranked`, each of whom needs a held-out item, and 0 without
    users. The second value is each item's best rank (I,) int64 among these users, from 0; I if it
    was never ranked.
    """
    from torch_geometric import metrics as library  # takes 40 % of a worker's start-up time

    kinds = {
        "recall": library.LinkPredRecall,
        "ndcg": library.LinkPredNDCG,
        "mrr": library.LinkPredMRR,
        "precision": library.LinkPredPrecision,
        "hit_rate": library.LinkPredHitRatio,
    }
    metrics = library.LinkPredMetricCollection(
        {f"{name}@{k}": kind(k) for k in ks for name, kind in kinds.items()}
    )
    best_ranks = torch.full((num_items + 1,), num_items)
    for chunk, best, _ in ranked:
        # torch_geometric combines row and item into one key. With -1 (no item) it would be a key of
        # the previous row, so -1 becomes I, which is no item.
        best = best.masked_fill(best < 0, num_items).cpu()
        metrics.update(best, torch.stack(held_out.of(chunk)))
        ranks = torch.arange(best.shape[1]).expand_as(best)
        best_ranks.scatter_reduce_(0, best.flatten(), ranks.flatten(), "amin")
    return {name: float(value) for name, value in metrics.compute().items()}, best_ranks[:num_items]
