"""Top-k against sorting the whole score matrix."""

import pytest
import torch

from xrec.errors import DataError
from xrec.graph import ranking as ranking_module
from xrec.graph.artifact import GraphEmbeddings
from xrec.graph.ranking import recommend
from xrec.storage import Manifest

NUM_USERS, NUM_ITEMS = 23, 40


@pytest.fixture
def graph() -> GraphEmbeddings:
    generator = torch.Generator().manual_seed(0)
    manifest = Manifest.model_construct(kind="graph")
    return GraphEmbeddings(
        torch.randn(NUM_USERS, 6, generator=generator),
        torch.randn(NUM_ITEMS, 6, generator=generator),
        manifest,
    )


@pytest.fixture
def edges() -> torch.Tensor:
    dense = torch.rand(NUM_USERS, NUM_ITEMS, generator=torch.Generator().manual_seed(1)) < 0.4
    dense[4], dense[4, :3] = True, False  # three unseen items
    dense[5] = False
    return torch.stack(dense.nonzero(as_tuple=True))


@pytest.mark.parametrize("scores_per_chunk", [1, 3 * NUM_ITEMS, 10**6])
def test_recommend_any_chunk_size_equals_sorting_all_scores(
    graph: GraphEmbeddings,
    edges: torch.Tensor,
    scores_per_chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranking_module, "_SCORES_PER_CHUNK", scores_per_chunk)
    users = torch.tensor([7, 0, 5, 22, 7, 13, 1])
    items, scores = recommend(graph, edges, users, k=5)
    seen = set(map(tuple, edges.T.tolist()))
    for row, user in enumerate(users.tolist()):
        all_scores = {
            item: float(graph.users[user] @ graph.items[item])
            for item in range(NUM_ITEMS)
            if (user, item) not in seen
        }
        expected = sorted(all_scores, key=lambda item: -all_scores[item])[:5]
        assert items[row].tolist() == expected
        assert scores[row].tolist() == pytest.approx(
            [all_scores[item] for item in expected], abs=1e-5
        )


def test_recommend_user_with_few_unseen_items_is_filled_up(
    graph: GraphEmbeddings, edges: torch.Tensor
) -> None:
    items, scores = recommend(graph, edges, torch.tensor([4]), k=5)
    assert sorted(items[0, :3].tolist()) == [0, 1, 2]
    assert items[0, 3:].tolist() == [-1, -1]
    assert scores[0, 3:].tolist() == [-torch.inf] * 2


def test_recommend_no_users_gives_empty_rows(graph: GraphEmbeddings, edges: torch.Tensor) -> None:
    items, scores = recommend(graph, edges, torch.empty(0, dtype=torch.int64), k=5)
    assert items.shape == scores.shape == (0, 5)


@pytest.mark.parametrize(
    ("users", "k", "message"),
    [([0], 0, "k must be"), ([0], 41, "saw 41"), ([23], 5, "0 to 22"), ([-1], 5, "0 to 22")],
)
def test_recommend_bad_arguments_raise_value_error(
    graph: GraphEmbeddings, edges: torch.Tensor, users: list[int], k: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recommend(graph, edges, torch.tensor(users), k)


@pytest.mark.parametrize("k", [1, 3, NUM_ITEMS])
def test_recommend_of_equal_scores_gives_the_lower_item_first(k: int, edges: torch.Tensor) -> None:
    # The scores are 0 to 3, each many times.
    users, items = torch.ones(NUM_USERS, 1), torch.arange(NUM_ITEMS)[:, None] % 7 // 2
    ranked, _ = recommend(
        GraphEmbeddings(users, items.float(), Manifest.model_construct(kind="graph")),
        edges,
        torch.arange(NUM_USERS),
        k,
    )
    seen = set(map(tuple, edges.T.tolist()))
    for user in range(NUM_USERS):
        unseen = [item for item in range(NUM_ITEMS) if (user, item) not in seen]
        expected = sorted(unseen, key=lambda item: (-int(items[item]), item))[:k]
        assert ranked[user].tolist() == expected + [-1] * (k - len(expected))


@pytest.mark.parametrize(
    ("table", "row", "message"),
    [("users", 3, "1 of 23 user vectors .* user_index 3"), ("items", 39, "item_index 39")],
)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_recommend_of_vectors_that_are_not_finite_raises_data_error(
    graph: GraphEmbeddings, edges: torch.Tensor, table: str, row: int, message: str, value: float
) -> None:
    getattr(graph, table)[row, 2] = value
    with pytest.raises(DataError, match=message):
        recommend(graph, edges, torch.tensor([0]), k=5)


@pytest.mark.parametrize("edge", [(0, NUM_ITEMS), (0, -1), (NUM_USERS, 0)])
def test_recommend_edge_out_of_range_raises_data_error(
    graph: GraphEmbeddings, edge: tuple[int, int]
) -> None:
    with pytest.raises(DataError, match="out of range"):
        recommend(graph, torch.tensor([edge]).T, torch.tensor([0]), k=5)
