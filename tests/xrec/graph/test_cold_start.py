"""Dataset and graph with new users and items.

Known vectors stay bit-equal, new ones come from fold-in, a new user's history is never recommended,
and token ids stay consistent.
"""

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from tests.xrec.data.test_dataset import write_small_dataset
from xrec.data import Dataset
from xrec.data.cold_start import ColdStartTables
from xrec.graph import GraphEmbeddings, recommend
from xrec.graph.cold_start import extend_with_new
from xrec.graph.fold_in import FoldIn
from xrec.llm.collaborative import Vocabulary
from xrec.storage import open_location

EMPTY = pa.table(
    {name: pa.array([], pa.string()) for name in ("user_id", "item_id", "title", "profile")}
)


@pytest.fixture
def town(tmp_path: Path) -> tuple[Dataset, GraphEmbeddings]:
    """3 users, 2 items; train: ann-x, anna-lena-y."""
    dataset = write_small_dataset(open_location(str(tmp_path / "dataset")))
    generator = torch.Generator().manual_seed(0)
    return dataset, GraphEmbeddings(
        torch.randn(3, 2, generator=generator),
        torch.randn(2, 2, generator=generator),
        dataset.manifest,
    )


def _tables(*pairs: tuple[str, str]) -> ColdStartTables:
    users, items = zip(*pairs, strict=True) if pairs else ((), ())
    interactions = pa.table(
        {"user_id": pa.array(users, pa.string()), "item_id": pa.array(items, pa.string())}
    )
    return ColdStartTables(
        interactions,
        EMPTY.select(["user_id", "profile"]),
        EMPTY.select(["item_id", "title", "profile"]),
        {},
    )


def test_extend_known_vectors_stay_and_new_ones_are_folded_in(
    town: tuple[Dataset, GraphEmbeddings],
) -> None:
    dataset, graph = town
    extended, vectors = extend_with_new(
        dataset, graph, _tables(("zoe", "y"), ("eve", "x"), ("eve", "y"), ("anna-lena", "new"))
    )
    assert torch.equal(vectors.users[:3], graph.users)
    assert torch.equal(vectors.items[:2], graph.items)
    fold_in = FoldIn.fit(graph.users, graph.items, torch.tensor([[0, 2], [0, 1]]))
    assert torch.equal(vectors.users[extended.user_index("eve")], fold_in.users([[0, 1]])[0])
    assert torch.equal(vectors.users[extended.user_index("zoe")], fold_in.users([[1]])[0])
    assert torch.equal(vectors.items[extended.item_index("new")], fold_in.items([[2]])[0])
    assert (
        (len(vectors.users), len(vectors.items))
        == (extended.num_users, extended.num_items)
        == (5, 3)
    )
    assert vectors.manifest == graph.manifest


def test_extend_histories_are_not_recommended(town: tuple[Dataset, GraphEmbeddings]) -> None:
    """eve has x and the new item, so only y is left for her; zoe has y."""
    extended, vectors = extend_with_new(
        *town, _tables(("eve", "x"), ("eve", "new"), ("ann", "new"), ("zoe", "y"))
    )
    users = torch.tensor(
        [extended.user_index("eve"), extended.user_index("zoe"), extended.user_index("ann")]
    )
    items, _ = recommend(vectors, torch.from_numpy(extended.interaction_edges("train")), users, 3)
    assert items[0].tolist() == [1, -1, -1]
    assert sorted(items[1].tolist()) == [-1, 0, 2]
    assert items[2].tolist() == [1, -1, -1]


def test_extend_token_ids_of_known_users_stay_and_items_move_by_the_new_users(
    town: tuple[Dataset, GraphEmbeddings],
) -> None:
    dataset, graph = town
    extended, vectors = extend_with_new(
        dataset, graph, _tables(("zoe", "y"), ("eve", "x"), ("anna-lena", "new"))
    )
    before, after = (
        Vocabulary(100, len(graph.users), len(graph.items)),
        Vocabulary(100, len(vectors.users), len(vectors.items)),
    )
    for user_id in ("ann", "bob", "anna-lena"):
        assert after.user_tokens(extended.user_index(user_id)) == before.user_tokens(
            dataset.user_index(user_id)
        )
    for item_id in ("x", "y"):
        assert after.item_tokens(extended.item_index(item_id)) == [
            before.item_tokens(dataset.item_index(item_id))[0] + 2
        ]
    assert after.item_tokens(extended.item_index("new")) == [after.num_ids - 1]


def test_extend_only_new_items_leaves_the_users(town: tuple[Dataset, GraphEmbeddings]) -> None:
    _, vectors = extend_with_new(*town, _tables(("ann", "new")))
    assert torch.equal(vectors.users, town[1].users)
    assert len(vectors.items) == 3


def test_extend_by_nothing_usable_is_the_same_graph(town: tuple[Dataset, GraphEmbeddings]) -> None:
    extended, vectors = extend_with_new(*town, _tables(("eve", "new")))
    assert vectors is town[1]
    assert extended.users.equals(town[0].users)
