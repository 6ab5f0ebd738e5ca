"""Top-k and ranking metrics against their definitions, over sorted whole rows of scores."""

import json
import math

import pytest
import torch

from xrec.graph.ranking import SeenItems, ranking_report, top_k_items, users_with_items

NUM_USERS, NUM_ITEMS = 43, 30


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

        self.edges = self.seen.nonzero().T, self.held_out.nonzero().T

    def scores(self, user: int) -> list[float]:
        scores: list[float] = (self.users[user] @ self.items.T).tolist()
        return scores

    def top(self, user: int, k: int) -> list[int]:
        """Return the unseen items by score, the lower index first among equal scores."""
        scores = self.scores(user)
        unseen = (item for item in range(NUM_ITEMS) if not self.seen[user, item])
        return sorted(unseen, key=lambda item: (-scores[item], item))[:k]

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


@pytest.mark.parametrize("k", [1, 5, NUM_ITEMS])
@pytest.mark.parametrize(
    ("scores_per_chunk", "num_chunks"), [(1, 8), (3 * NUM_ITEMS, 3), (10**6, 1)]
)
def test_top_k_in_chunks_of_any_size_equals_sorting_all_scores(k, scores_per_chunk, num_chunks):
    case, lost = _Case(seed=0), [2, 5, 6]
    users = torch.tensor([7, 0, 3, 11, 22, 7, 13, 9])
    seen = SeenItems(case.edges[0], lost=torch.tensor(lost, dtype=torch.int64))
    vectors = case.users, case.items
    chunks = list(top_k_items(*vectors, seen, users, k, scores_per_chunk=scores_per_chunk))
    assert len(chunks) == num_chunks
    found, items, scores = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    assert torch.equal(found, users)
    for user, ranked, scored in zip(users.tolist(), items.tolist(), scores.tolist(), strict=True):
        expected = [item for item in case.top(user, NUM_ITEMS) if item not in lost][:k]
        missing = k - len(expected)
        assert ranked == expected + [-1] * missing
        assert scored == [case.scores(user)[item] for item in expected] + [-math.inf] * missing


def test_ranking_report_equals_brute_force():
    case, ks = _Case(seed=8), (1, 10, 50)
    report = ranking_report(case.users, case.items, *case.edges, ks=ks)
    for k in ks:
        expected = case.metrics(case.evaluated, k)
        assert {name: report[name] for name in expected} == pytest.approx(expected, abs=1e-6)
        shown = {item for user in case.evaluated for item in case.top(user, k)}
        assert report[f"coverage@{k}"] == pytest.approx(len(shown) / NUM_ITEMS)
    assert 0 < report["coverage@1"] < 1
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_ranking_report_of_drawn_users_counts_them():
    case = _Case(seed=8)
    drawn = users_with_items(case.edges[1], 9, seed=2)
    report = ranking_report(case.users, case.items, *case.edges, (5,), most_users=9, seed=2)
    assert (report["num_users"], report["num_held_out_users"]) == (9, len(case.evaluated))
    expected = case.metrics(drawn.tolist(), 5)
    assert {name: report[name] for name in expected} == pytest.approx(expected, abs=1e-6)
