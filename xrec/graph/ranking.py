"""The top-k items of users by dot product, and how well they rank held-out items.

Items that a user has seen are left out. Users are scored chunk by chunk, so that no (users x items)
matrix is held. Metrics are means over the users with at least one held-out item.

H are a user's held-out items. The hits h_1 < h_2 < ... are the ranks within the top k that hold an
item of H:

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

_SCORES_PER_CHUNK = 16_000_000  # 64 MB of float32 scores at a time; on a CPU more is hardly faster
_BYTES_OF_A_SCORE = 32  # at most: the score, and it and its index in the sort of rows with ties
_SHARE_OF_FREE_MEMORY = 0.5  # of a GPU, for a chunk

Ranked = Iterator[tuple[Tensor, Tensor, Tensor]]
"""Chunks of users (B,), and their best items and the scores of these, (B, k) each."""


More = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""Returns, for users (B,), what is added to their scores: positions in them, items, and values."""


class SeenItems:
    """The items that each user has interacted with; a ranking leaves them out.

    It leaves out those of `lost` (G,) int64 too, for every user: they are no items any more.
    """

    def __init__(self, edges: Tensor, lost: Tensor | None = None) -> None:
        """`edges` (2, E) int64 have user indices in row 0 and item indices in row 1.

        Edges that are sorted by user are not copied.
        """
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
        """Return positions in `users` (B,) int64 and the items seen there, (M,) int64 each."""
        of, items = self.edges
        first, stop = (torch.searchsorted(of, users, right=right) for right in (False, True))
        counts = stop - first
        rows = torch.repeat_interleave(torch.arange(len(users)), counts)
        within = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
        return rows, items[first[rows] + within]


def seen_items(dataset: Dataset) -> SeenItems:
    """Return what is never recommended: what users know (`known_edges`), and lost items."""
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
    """Yield the k best unseen items of users by chunks: user indices (B,), items and scores (B, k).

    users (U, D) and items (I, D) must be finite. Items are int64, best first; of equal scores the
    lower index comes first. A user with fewer than k unseen items has -1 and -inf at the end. Items
    and scores are on the device of `users`. k: 1 to I. more: what is added to the dot products.
    scores_per_chunk: by default as many as fit.
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
    """Number of scores that are held at a time; no result depends on it."""
    if device.type == "cpu":
        return _SCORES_PER_CHUNK
    free, _ = torch.cuda.mem_get_info(device)
    fitting = int(_SHARE_OF_FREE_MEMORY * free) // _BYTES_OF_A_SCORE
    return min(fitting, 16 * _SCORES_PER_CHUNK)


def top_k_of_blocks(
    vectors: Tensor,
    partition: Partition,
    sizes: tuple[int, int],
    seen: SeenItems,
    user_indices: Tensor,
    k: int,
) -> Ranked:
    """Yield on every worker what `top_k_items` yields, from its rows `vectors` (n, D). Collective.

    sizes: U and I, the number of users and items. Each worker ranks the items that it owns for all
    of `user_indices`, which are the same on every worker, and the best of all workers are merged.
    """
    num_users, num_items = sizes
    first, stop = partition.num_own(num_users), partition.num_own(num_users + num_items)
    items, own = vectors[first:stop], partition.node_ids[first:stop].to(vectors.device) - num_users
    lost = partition.find(seen.lost + num_users)[1] - first
    # The same on every worker, whatever memory is free there.
    num_merged = partition.blocks.num_blocks * (k + vectors.shape[1])
    for chunk in user_indices.split(max(1, _SCORES_PER_CHUNK // num_merged)):
        users, (of_users, seen_there) = partition.rows(vectors, chunk), seen.of(chunk)
        there, rows = partition.find(seen_there + num_users)
        seen_here = SeenItems(torch.stack([of_users[there], rows - first]), lost=lost)
        places, scores = _best(users, items, seen_here, min(k, len(items)))
        indices = torch.cat([own, own.new_tensor([num_items])])[places]
        missing = (0, k - scores.shape[1])
        scores = pad(scores, missing, value=-torch.inf)
        yield chunk, *_merged(pad(indices, missing, value=num_items), scores, partition)


def _best(users: Tensor, items: Tensor, seen: SeenItems, k: int) -> tuple[Tensor, Tensor]:
    """Items and scores (B, k) of `top_k_items` for all `users` (B, D); none if there are none."""
    if k == 0:
        return users.new_empty(len(users), 0, dtype=torch.int64), users.new_empty(len(users), 0)
    chunks = top_k_items(users, items, seen, torch.arange(len(users)), k)
    _, places, scores = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    return places, scores


def _merged(indices: Tensor, scores: Tensor, partition: Partition) -> tuple[Tensor, Tensor]:
    """Return the k best of all workers' items and scores (B, k), and -1 where a score is -inf."""
    shape = partition.blocks.num_blocks, *scores.shape
    indices, scores = (
        partition.all_gather(each).view(shape).transpose(0, 1).flatten(1)
        for each in (indices, scores)
    )
    indices, order = indices.sort(dim=1)  # of equal scores the lower index comes first
    best, places = stable_top_k(scores.gather(1, order), shape[2])
    return indices.gather(1, places).masked_fill(best == -torch.inf, -1), best


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
    """Return the figures of a ranking for a manifest, as plain JSON values.

    The users are those with at least one of `held_out_edges` (2, E) int64, or `most_users` of them
    that are drawn by `seed`. The items of their `train_edges` (2, E) int64 are left out of the
    ranking, and so are `lost_items` (G,) int64. The figures are:

    - "num_users": how many are ranked; "num_held_out_users": how many could be;
    - the means of `metrics_of`;
    - "coverage@k": the share of the I items that are in the top k of at least one of these users.

    users (U, D), items (I, D) float32. No (users x items) matrix is held. There must be held-out
    edges.
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
    """Return the users with at least one of `edges` (2, E) int64: (N,) int64, ascending.

    If there are more than `most`, so many of them are drawn by `seed`.
    """
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
    users. A user with fewer than k unseen items is ranked all of them. Beside them stands the best
    rank (I,) int64 that each item has among these users, from 0; I if it was never ranked.
    """
    from torch_geometric import metrics as library  # its import takes 40 % of a worker's start

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
        # torch_geometric makes one key of row and item. With -1 (nothing left to rank) that key
        # would be one of the row before, so the number I, which no item has, takes its place.
        best = best.masked_fill(best < 0, num_items).cpu()
        metrics.update(best, torch.stack(held_out.of(chunk)))
        ranks = torch.arange(best.shape[1]).expand_as(best)
        best_ranks.scatter_reduce_(0, best.flatten(), ranks.flatten(), "amin")
    return {name: float(value) for name, value in metrics.compute().items()}, best_ranks[:num_items]
