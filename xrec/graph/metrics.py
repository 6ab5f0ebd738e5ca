"""How well vectors rank held-out items: Recall@k and NDCG@k, a mean over the users with at least one held-out item."""

import torch
from torch import Tensor
from torch_geometric.metrics import LinkPredMetricCollection, LinkPredNDCG, LinkPredRecall

from xrec.errors import DataError
from xrec.graph.ranking import SeenItems, top_k_items


def ranking_metrics(users: Tensor, items: Tensor, seen: SeenItems, held_out: SeenItems, user_indices: Tensor, k: int) -> dict[str, float]:
    """{"recall@k", "ndcg@k"}: means over `user_indices` (N,) int64, each with a held-out item; `seen` items are left out.

    recall@k = hits / held-out items; ndcg@k = DCG / DCG of the best order, gain 1 / log2(rank + 1) a hit.
    users (U, D), items (I, D) float32. Fewer than k items: k is their number. Raises DataError if there are no users.
    """
    if len(user_indices) == 0:
        raise DataError("there are no held-out interactions to rank for; give the dataset's validation and test splits a share")
    num_items = items.shape[0]
    best = min(k, num_items)
    metrics = LinkPredMetricCollection({f"recall@{k}": LinkPredRecall(best), f"ndcg@{k}": LinkPredNDCG(best)})
    for chunk, ranked, _ in top_k_items(users, items, seen, user_indices, best):
        # torch_geometric keys hits by row and item: -1 (nothing left to rank) must not alias an item of the row before.
        metrics.update(ranked.masked_fill(ranked < 0, num_items).cpu(), torch.stack(held_out.of(chunk)))
    return {name: float(value) for name, value in metrics.compute().items()}


def users_with_items(edges: Tensor) -> Tensor:
    """Users with at least one of `edges` (2, E) int64: (N,) int64, ascending."""
    users: Tensor = torch.unique(edges[0])
    return users
