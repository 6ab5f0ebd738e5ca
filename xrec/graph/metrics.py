"""How well vectors rank held-out items: means over the users with at least one held-out item.

For a user with held-out items H and hits h_1 < h_2 < ..., the ranks within the top k that hold an item of H:
recall = hits / |H|,  precision = hits / k,  hit_rate = 1 if there is a hit,  mrr = 1 / h_1 (0 without a hit),
ndcg = sum_j 1 / log2(h_j + 1) over the same sum of the best order, ranks 1 to min(k, |H|).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.metrics import (
    LinkPredHitRatio,
    LinkPredMetricCollection,
    LinkPredMRR,
    LinkPredNDCG,
    LinkPredPrecision,
    LinkPredRecall,
)

from xrec.errors import DataError
from xrec.graph.ranking import SeenItems, top_k_items

_METRICS = {
    "recall": LinkPredRecall,
    "ndcg": LinkPredNDCG,
    "mrr": LinkPredMRR,
    "precision": LinkPredPrecision,
    "hit_rate": LinkPredHitRatio,
}
_NUM_GROUPS = 5
_NO_USERS = "there are no held-out interactions to rank for; give the dataset's validation and test splits a share"


def metric_names(ks: Sequence[int]) -> list[str]:
    """The keys of `ranking_metrics`: "recall@10", "ndcg@10", "mrr@10", "precision@10", "hit_rate@10" for each of `ks`."""
    return [f"{name}@{k}" for k in ks for name in _METRICS]


def ranking_metrics(
    users: Tensor,
    items: Tensor,
    seen: SeenItems,
    held_out: SeenItems,
    user_indices: Tensor,
    ks: Sequence[int],
) -> dict[str, float]:
    """{"recall@k", "ndcg@k", "mrr@k", "precision@k", "hit_rate@k"} for each of `ks`, by one pass at the largest.

    Means over `user_indices` (N,) int64, each with a held-out item; `seen` items are left out of the ranking. A user with
    fewer than k unseen items is ranked for as many as there are. users (U, D), items (I, D) float32. Raises DataError if
    there are no users, ValueError for a k below 1 or none.
    """
    if len(user_indices) == 0:
        raise DataError(_NO_USERS)
    return _score(users, items, seen, held_out, user_indices, ks)[0]


def ranking_report(
    users: Tensor,
    items: Tensor,
    train_edges: Tensor,
    held_out_edges: Tensor,
    ks: Sequence[int] = (10, 20, 50),
) -> dict[str, Any]:
    """What a manifest says of a ranking, as plain JSON values; no (users x items) matrix is ever held.

    Over the users with one of `held_out_edges` (2, E) int64, items of their `train_edges` (2, E) int64 left out:
    - the means of `ranking_metrics`;
    - "coverage@k": share of the I items that are in any of these users' top k;
    - "by_activity": five groups of equal size (to one user), from the fewest training items to the most, each with
      num_users, min_items and max_items (training items of its users), recall@k and ndcg@k; all but the first None in
      a group without users.

    users (U, D), items (I, D) float32. Raises what `ranking_metrics` does.
    """
    num_users, num_items = users.shape[0], items.shape[0]
    evaluated = users_with_items(held_out_edges)
    if len(evaluated) == 0:
        raise DataError(_NO_USERS)
    seen, held_out = SeenItems(train_edges, num_users), SeenItems(held_out_edges, num_users)
    activity = torch.bincount(train_edges[0], minlength=num_users)[evaluated]
    order = activity.argsort(stable=True)
    totals = dict.fromkeys(metric_names(ks), 0.0)
    best_ranks = torch.full((num_items,), num_items)
    by_activity = []
    for group in order.tensor_split(_NUM_GROUPS):
        metrics, ranks = _score(users, items, seen, held_out, evaluated[group], ks)
        totals = {name: total + metrics[name] * len(group) for name, total in totals.items()}
        best_ranks = torch.minimum(best_ranks, ranks)
        by_activity.append(_group(activity[group], metrics, ks))
    return {
        **{name: total / len(evaluated) for name, total in totals.items()},
        **{f"coverage@{k}": float((best_ranks < min(k, num_items)).sum()) / num_items for k in ks},
        "by_activity": by_activity,
    }


def users_with_items(edges: Tensor) -> Tensor:
    """Users with at least one of `edges` (2, E) int64: (N,) int64, ascending."""
    users: Tensor = torch.unique(edges[0])
    return users


def _score(
    users: Tensor,
    items: Tensor,
    seen: SeenItems,
    held_out: SeenItems,
    user_indices: Tensor,
    ks: Sequence[int],
) -> tuple[dict[str, float], Tensor]:
    """The metrics, 0 without users, and each item's best rank (I,) int64 among these users, from 0; I: never ranked."""
    if not ks or min(ks) < 1:
        raise ValueError(f"ks must be one or more numbers from 1, saw {list(ks)}")
    num_items = items.shape[0]
    metrics = LinkPredMetricCollection(
        {f"{name}@{k}": metric(k) for k in ks for name, metric in _METRICS.items()}
    )
    best_ranks = torch.full((num_items + 1,), num_items)
    for chunk, ranked, _ in top_k_items(users, items, seen, user_indices, min(max(ks), num_items)):
        # torch_geometric keys hits by row and item: -1 (nothing left to rank) must not alias an item of the row before.
        ranked = ranked.masked_fill(ranked < 0, num_items).cpu()
        metrics.update(ranked, torch.stack(held_out.of(chunk)))
        ranks = torch.arange(ranked.shape[1]).expand_as(ranked)
        best_ranks.scatter_reduce_(0, ranked.flatten(), ranks.flatten(), "amin")
    return {name: float(value) for name, value in metrics.compute().items()}, best_ranks[:num_items]


def _group(activity: Tensor, metrics: dict[str, float], ks: Sequence[int]) -> dict[str, Any]:
    names = [f"{name}@{k}" for k in ks for name in ("recall", "ndcg")]
    if len(activity) == 0:
        return {"num_users": 0, **dict.fromkeys(("min_items", "max_items", *names))}
    return {
        "num_users": len(activity),
        "min_items": int(activity.min()),
        "max_items": int(activity.max()),
        **{name: metrics[name] for name in names},
    }
