"""Ranking metrics against their definitions, user by user, over sorted whole rows of scores."""

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from xrec.errors import DataError
from xrec.graph.metrics import metric_names, ranking_metrics, ranking_report, users_with_items
from xrec.graph.ranking import SeenItems

NUM_USERS, NUM_ITEMS = 43, 30
NO_EDGES = torch.empty(2, 0, dtype=torch.int64)


class _Case:
    """Vectors of small integers, so that many scores are equal and all are exact.

    Some users are special cases.
    """

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.users = torch.randint(-2, 3, (NUM_USERS, 3), generator=generator).float()
        self.items = torch.randint(-2, 3, (NUM_ITEMS, 3), generator=generator).float()
        draw = torch.rand(NUM_USERS, NUM_ITEMS, generator=generator)
        busyness = torch.rand(NUM_USERS, 1, generator=generator)
        self.seen, self.held_out = draw < 0.6 * busyness, draw > 0.93
        self.seen[3] = ~self.held_out[3]  # nothing but the held-out items is left to rank
        self.held_out[5] = False
        self.users[7] = 0  # all its scores are equal
        self.seen[9] = False
        # No item is left for user 11, not even the held-out one.
        self.seen[11], self.held_out[11], self.held_out[11, 4] = True, False, True
        self.evaluated = [user for user in range(NUM_USERS) if self.held_out[user].any()]

    @property
    def edges(self) -> tuple[Tensor, Tensor]:
        return torch.stack(self.seen.nonzero(as_tuple=True)), torch.stack(
            self.held_out.nonzero(as_tuple=True)
        )

    def top(self, user: int, k: int) -> list[int]:
        """Return the unseen items by score, the lower index first among equal scores."""
        scores = (self.users[user] @ self.items.T).tolist()
        return sorted(
            (item for item in range(NUM_ITEMS) if not self.seen[user, item]),
            key=lambda item: (-scores[item], item),
        )[:k]

    def metrics(self, users: list[int], k: int) -> dict[str, float]:
        """Return the means over `users`, computed from the definitions."""
        rows = []
        for user in users:
            wanted = set(self.held_out[user].nonzero().flatten().tolist())
            ranks = [rank for rank, item in enumerate(self.top(user, k), start=1) if item in wanted]
            best = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(wanted)) + 1))
            rows.append(
                {
                    f"recall@{k}": len(ranks) / len(wanted),
                    f"ndcg@{k}": sum(1 / math.log2(rank + 1) for rank in ranks) / best,
                    f"mrr@{k}": 1 / ranks[0] if ranks else 0.0,
                    f"precision@{k}": len(ranks) / k,
                    f"hit_rate@{k}": 1.0 if ranks else 0.0,
                }
            )
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


@pytest.mark.parametrize("ks", [(1,), (4,), (20,), (50,), (20, 3, 50)])
@pytest.mark.parametrize("scores_per_chunk", [NUM_ITEMS, 10**6])
def test_ranking_metrics_equal_brute_force(
    ks: tuple[int, ...], scores_per_chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xrec.graph.ranking._SCORES_PER_CHUNK", scores_per_chunk)
    case = _Case(seed=ks[0])
    seen, held_out = (SeenItems(edges, NUM_USERS) for edges in case.edges)
    metrics = ranking_metrics(
        case.users, case.items, seen, held_out, users_with_items(case.edges[1]), ks
    )
    assert list(metrics) == metric_names(ks)
    for k in ks:
        expected = case.metrics(case.evaluated, k)
        assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_ranking_metrics_without_users_raise_data_error() -> None:
    none = SeenItems(NO_EDGES, 3)
    with pytest.raises(DataError, match="no held-out interactions"):
        ranking_metrics(
            torch.randn(3, 2),
            torch.randn(4, 2),
            none,
            none,
            torch.empty(0, dtype=torch.int64),
            (2,),
        )


@pytest.mark.parametrize("ks", [(), (10, 0)])
def test_ranking_metrics_without_a_positive_k_raise_value_error(ks: tuple[int, ...]) -> None:
    case = _Case(seed=0)
    seen, held_out = (SeenItems(edges, NUM_USERS) for edges in case.edges)
    with pytest.raises(ValueError, match="ks must be"):
        ranking_metrics(case.users, case.items, seen, held_out, torch.tensor(case.evaluated), ks)


def test_ranking_report_equals_brute_force() -> None:
    case, ks = _Case(seed=8), (2, 10, 50)
    report = ranking_report(case.users, case.items, *case.edges, ks=ks)
    for k in ks:
        expected = case.metrics(case.evaluated, k)
        assert {name: report[name] for name in expected} == pytest.approx(expected, abs=1e-6)
        shown = {item for user in case.evaluated for item in case.top(user, k)}
        assert report[f"coverage@{k}"] == pytest.approx(len(shown) / NUM_ITEMS)
    assert 0 < report["coverage@2"] < 1
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_ranking_report_groups_users_from_sparse_to_active() -> None:
    case = _Case(seed=8)
    groups = ranking_report(case.users, case.items, *case.edges, ks=(5, 20))["by_activity"]
    by_items = sorted(case.evaluated, key=lambda user: (int(case.seen[user].sum()), user))
    counts = [group["num_users"] for group in groups]
    assert sum(counts) == len(case.evaluated)
    # Unequal groups, so that the test sees where the remainder goes.
    assert max(counts) - min(counts) == 1
    for group in groups:
        members, by_items = by_items[: group["num_users"]], by_items[group["num_users"] :]
        expected: dict[str, Any] = {
            "num_users": len(members),
            "min_items": int(case.seen[members[0]].sum()),
            "max_items": int(case.seen[members[-1]].sum()),
        }
        for k in (5, 20):
            expected |= {
                name: value
                for name, value in case.metrics(members, k).items()
                if name.split("@")[0] in ("recall", "ndcg")
            }
        assert group == pytest.approx(expected, abs=1e-6)


def test_ranking_report_of_three_users_has_groups_without_users() -> None:
    held_out = torch.tensor([[0, 2, 3], [1, 1, 0]])
    report = ranking_report(torch.eye(4), torch.eye(4), NO_EDGES, held_out, ks=(1,))
    assert [group["num_users"] for group in report["by_activity"]] == [1, 1, 1, 0, 0]
    empty = {"num_users": 0, "min_items": None, "max_items": None, "recall@1": None, "ndcg@1": None}
    assert report["by_activity"][3:] == [empty, empty]
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_ranking_report_without_held_out_items_raises_data_error() -> None:
    with pytest.raises(DataError, match="no held-out interactions"):
        ranking_report(torch.eye(4), torch.eye(4), NO_EDGES, NO_EDGES)
