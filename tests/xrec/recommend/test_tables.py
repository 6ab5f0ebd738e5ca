"""What a run is made from, and what is refused before Ray is asked for."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from tests.world.workspace import save_graph
from tests.xrec.recommend.conftest import needs_faiss
from xrec.data.dataset import Dataset
from xrec.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    ConfigError,
    DataError,
    UnknownIdError,
)
from xrec.graph.artifact import GraphEmbeddings, read_graph
from xrec.graph.index import ItemIndex
from xrec.graph.ranking import SeenItems
from xrec.recommend import RankingTask, identify_recommendations, load_task, read_tables
from xrec.storage import Manifest, open_location


def _dataset(num_users: int, num_items: int, edges: Tensor, lost: list[int]) -> Dataset:
    """A dataset of ids, of which `edges` (2, E) interacted, and these items are no more."""
    index = pa.table({"user_index": edges[0].numpy(), "item_index": edges[1].numpy()})
    items = ["" if item in lost else f"i{item:04}" for item in range(num_items)]
    order = sorted(set(range(num_items)) - set(lost))
    return Dataset(
        manifest=Manifest.model_construct(row_counts={"users": num_users, "items": num_items}),
        users=pa.table({"user_id": [f"u{user:04}" for user in range(num_users)]}),
        items=pa.table({"item_id": items}),
        interactions=index.append_column("split", pa.repeat("train", edges.shape[1])),
        explanations=index.slice(0, 0),
        item_order=pa.table({"item_index": pa.array(order, pa.int32())}),
    )


@needs_faiss
def test_index_finds_nearly_all_of_the_best_and_no_seen_or_lost_item(tmp_path, monkeypatch):
    """Also for users who have seen nearly all, and for whom it finds too few."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in {
        "_LINKS": 4,
        "_NUM_BUILD": 8,
        "_NUM_SEARCH": 16,
        "_USERS_PER_SEARCH": 20,
    }.items():
        monkeypatch.setattr(f"xrec.graph.index.{name}", value)
    draw = torch.Generator().manual_seed(0)
    users, items = (torch.randn(number, 16, generator=draw) for number in (300, 3000))
    items *= torch.rand(3000, 1, generator=draw) + 0.2
    lost = [7, 8, 2999]
    items[7] = 100.0
    chance = torch.linspace(0, 1, 300)[:, None] ** 4
    edges = (torch.rand(300, 3000, generator=draw) < chance).nonzero().T.contiguous()
    dataset = _dataset(300, 3000, edges, lost)
    graph = GraphEmbeddings(users, items, dataset.manifest)
    asked = pa.table({"user_id": dataset.users["user_id"].take([5, 0, *range(9, 300)])})
    exact = RankingTask(dataset, graph, 10)
    found = RankingTask(dataset, graph, 10)
    found.index, found.compared = ItemIndex("items", items, dataset.lost_items), np.arange(0, 99)
    mine, theirs = found.do(asked), exact.do(asked)
    assert mine.failed.equals(theirs.failed)
    assert mine.failed.num_rows > 0
    rows, expected = (outcome.ok.to_pandas() for outcome in (mine, theirs))
    assert rows[["user_id", "rank"]].equals(expected[["user_id", "rank"]])
    pairs, wanted = (set(zip(each.user_id, each.item_id, strict=True)) for each in (rows, expected))
    seen = {(f"u{user:04}", f"i{item:04}") for user, item in edges.T.tolist()}
    assert not pairs & seen
    assert "" not in set(rows.item_id)
    assert 0.5 < len(pairs & wanted) / len(wanted) < 1
    places = [rows[name].str[1:].astype(int).to_numpy() for name in ("user_id", "item_id")]
    dots = (users[places[0]].double() * items[places[1]].double()).sum(dim=1).numpy()
    np.testing.assert_allclose(rows.score, dots, rtol=1e-5)
    assert (rows.groupby("user_id").score.diff().dropna() <= 0).all()
    few = rows.user_id.isin([f"u{user:04}" for user in range(99)])
    of_users = pairs & set(zip(rows.user_id[few], rows.item_id[few], strict=True))
    assert mine.costs["compared_users"] == 92
    assert mine.costs["sum_of_recalls"] == pytest.approx(len(of_users & wanted) / 10)
    assert theirs.costs == {}


@needs_faiss
def test_index_is_compared_for_the_users_who_are_asked_for(make_config, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    task = load_task(make_config(index="hnsw", user_ids=["u5", "u3", "u5"]))
    costs = task.do(pa.table({"user_id": [f"u{user}" for user in range(23)]})).costs
    assert costs == {"compared_users": 2, "sum_of_recalls": 2}
    everybody = load_task(make_config(index="hnsw")).compared
    assert sorted(everybody.tolist()) == list(range(23))


@needs_faiss
@pytest.mark.parametrize("kept", [0, 1000, -1])
def test_index_is_a_file_of_the_node_and_is_made_again_if_it_is_cut_off(
    tmp_path, monkeypatch, kept
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    items = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    given = (items[:3], items, SeenItems(torch.zeros(2, 0).long()), torch.arange(3), 5)
    ((_, *first),) = ItemIndex("items", items, np.empty(0, np.int64)).top_k(*given)
    (file,) = tmp_path.glob("*/*/*.hnsw")
    content = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("xrec.graph.index._build", lambda *_: pytest.fail("it is there"))
        ((_, *again),) = ItemIndex("items", items, np.empty(0, np.int64)).top_k(*given)
    file.write_bytes(content[:kept])
    ((_, *mended),) = ItemIndex("items", items, np.empty(0, np.int64)).top_k(*given)
    assert file.read_bytes() == content
    for each in (again, mended):
        assert all(map(torch.equal, each, first))


def test_index_without_its_package_is_refused(make_config, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"index=hnsw needs faiss, .*run: pip install .*index"):
        identify_recommendations(make_config(index="hnsw"))


def test_identity_is_of_inputs_k_index_and_set_of_users(make_config, tmp_path, monkeypatch):
    identity = identify_recommendations(make_config(user_ids=["u3", "u1", "u3"]))
    assert set(identity.inputs) == {"dataset", "graph"}
    assert list(tmp_path.iterdir()) == []
    same = make_config(user_ids=["u1", "u3"], users_per_chunk=4)
    assert identify_recommendations(same).run == identity.run
    runs = {identity.run}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "faiss")
    both = {"user_ids": ["u1", "u3"]}
    for values in ({"user_ids": ["u1"]}, {}, {**both, "k": 2}, {**both, "index": "hnsw"}):
        runs.add(identify_recommendations(make_config(**values)).run)
    assert len(runs) == 5


def _read(config: Any) -> None:
    identify_recommendations(config)
    read_tables(config)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"k": 16}, ConfigError, "k = 16, but the dataset has 15 items"),
        ({"user_ids": []}, ConfigError, "user_ids is an empty list"),
        ({"user_ids": ["u2", "u1x"]}, UnknownIdError, "user 'u1x' is not among the"),
        ({"dataset": "nowhere"}, ArtifactNotFoundError, "nowhere: no dataset artifact"),
        ({"graph": "nowhere"}, ArtifactNotFoundError, "nowhere: no graph artifact"),
        ({"graph": "broken"}, DataError, r"1 of 23 user vectors .* user_index 4"),
        ({"graph": "other"}, ArtifactMismatchError, "trained on dataset 0123, but .*dataset is"),
    ],
)
def test_what_cannot_be_recommended_is_refused(
    make_config, tmp_path, monkeypatch, values, error, message
):
    monkeypatch.chdir(tmp_path)
    graph = read_graph(open_location(make_config().artifact("graph")))
    users = graph.users.clone()
    users[4, 1] = torch.nan
    save_graph(tmp_path / "broken", users, graph.items, graph.manifest.inputs["dataset"])
    save_graph(tmp_path / "other", torch.eye(23), torch.eye(23), "0123")
    with pytest.raises(error, match=message):
        _read(make_config(**values))
