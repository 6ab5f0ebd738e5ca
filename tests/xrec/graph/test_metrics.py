"""Recall and NDCG against the definitions, user by user."""

import math

import pytest
import torch

from xrec.errors import DataError
from xrec.graph import SeenItems, ranking_metrics, users_with_items

NUM_USERS, NUM_ITEMS = 19, 30


@pytest.mark.parametrize("k", [1, 4, 20, 50])
def test_ranking_metrics_equal_brute_force(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    users, items = torch.randn(NUM_USERS, 4, generator=generator), torch.randn(NUM_ITEMS, 4, generator=generator)
    draw = torch.rand(NUM_USERS, NUM_ITEMS, generator=generator)
    seen, held_out = draw < 0.3, draw > 0.9
    seen[3] = ~held_out[3]  # nothing but the held-out items is left to rank
    held_out[5] = False
    recalls, ndcgs = [], []
    for user in range(NUM_USERS):
        wanted = set(held_out[user].nonzero().flatten().tolist())
        if not wanted:
            continue
        scores = (users[user] @ items.T).tolist()
        ranked = sorted((item for item in range(NUM_ITEMS) if not seen[user, item]), key=lambda item: -scores[item])[:k]
        gains = [1 / math.log2(rank + 2) for rank, item in enumerate(ranked) if item in wanted]
        recalls.append(len(gains) / len(wanted))
        ndcgs.append(sum(gains) / sum(1 / math.log2(rank + 2) for rank in range(min(k, len(wanted)))))

    edges = [torch.stack(mask.nonzero(as_tuple=True)) for mask in (seen, held_out)]
    metrics = ranking_metrics(users, items, *(SeenItems(e, NUM_USERS) for e in edges), users_with_items(edges[1]), k)

    assert metrics == pytest.approx({f"recall@{k}": sum(recalls) / len(recalls), f"ndcg@{k}": sum(ndcgs) / len(ndcgs)}, abs=1e-6)


def test_ranking_metrics_without_users_raise_data_error() -> None:
    none = SeenItems(torch.empty(2, 0, dtype=torch.int64), 3)
    with pytest.raises(DataError, match="no held-out interactions"):
        ranking_metrics(torch.randn(3, 2), torch.randn(4, 2), none, none, torch.empty(0, dtype=torch.int64), 2)
