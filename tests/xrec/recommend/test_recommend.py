"""Whole runs, compared with a sort of every user's scores; the index; what is refused at once."""

import importlib.util
from typing import Any
from unittest.mock import Mock

import deltalake
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from torch import Tensor

from tests.errors import raises
from tests.world.here import Killed, Place, PoolHere
from tests.world.shop import with_uris
from tests.world.town import make_dataset, pair_rows
from tests.world.workspace import save_graph
from tests.xrec.bulk.toy_run import toy_run
from xrec import recommend
from xrec.bulk import BulkRun, Identity, Survey, published
from xrec.config import RecommendConfig, StorageConfig, parse_config
from xrec.data import read_dataset
from xrec.data.dataset import Dataset
from xrec.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    ClusterError,
    ConfigError,
    DataError,
    UnknownIdError,
)
from xrec.graph.artifact import GraphEmbeddings, read_graph
from xrec.graph.index import ItemIndex
from xrec.graph.ranking import SeenItems
from xrec.recommend import RankingTask, identify_recommendations, load_task, read_tables
from xrec.storage import Manifest, open_location

NUM_USERS, NUM_ITEMS, DIM = 23, 15, 4
needs_faiss = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None, reason="the extra index is not installed"
)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """Users u0 to u22, whose ids do not sort as their numbers; u7 has two unseen items, u8 none.

    No test writes to it.
    """
    root = tmp_path_factory.mktemp("recommend")
    seen = [
        (user, (3 * user + step) % NUM_ITEMS)
        for user in range(NUM_USERS)
        for step in range({7: 13, 8: 15}.get(user, 4))
    ]
    users = [{"user_id": f"u{user}", "profile": ""} for user in range(NUM_USERS)]
    items = [
        {"item_id": f"i{item}", "title": f"Place {item}", "profile": ""}
        for item in range(NUM_ITEMS)
    ]
    explained = pair_rows((0, 9), explanation="Quiet.", split="test")
    tables = {"users": users, "items": items, "interactions": pair_rows(*seen, split="train")}
    dataset = make_dataset(root, **tables, explanations=explained)
    draw = torch.Generator().manual_seed(0)
    vectors = [torch.randn(count, DIM, generator=draw) for count in (NUM_USERS, NUM_ITEMS)]
    save_graph(root / "graph", *vectors, dataset)
    return root


@pytest.fixture
def make_config(workspace, tmp_path):
    """A config by its keys."""

    def make(**values: Any) -> RecommendConfig:
        defaults = {
            "workspace": str(workspace),
            "recommendations": str(tmp_path / "recommendations"),
            "k": 3,
        }
        return parse_config(RecommendConfig, with_uris({**defaults, **values}))

    return make


def _plan(config: Any, users_per_chunk: int = 5) -> BulkRun:
    dataset = recommend.read_tables(config)[0]
    return recommend.plan_recommendations(config, dataset, users_per_chunk=users_per_chunk)


def _run(config: Any, users_per_chunk: int = 5, pool: Any = None) -> Manifest:
    """By one actor in this process."""
    return recommend.run_recommend(config, _plan(config, users_per_chunk), pool or PoolHere())


def _publish(config: Any) -> Manifest | None:
    return recommend.publish_recommendations(_plan(config))


def _rows_of(config: Any, k: int | None = None) -> list[dict[str, Any]]:
    uri = config.artifact("recommendations")
    batches = recommend.recommendation_batches(uri, k, storage=config.storage)
    rows = [row for table in batches for row in table.to_pylist()]
    return sorted(rows, key=lambda row: row["user_id"])  # a user's rows have their order already


def _expected(config: Any, k: int) -> list[tuple[str, str, int, float]]:
    """user_id, item_id, rank, score of every user, by user_id and rank."""
    dataset = read_dataset(open_location(config.artifact("dataset"), config.storage))
    graph = read_graph(open_location(config.artifact("graph"), config.storage))
    items = dataset.items["item_id"].to_pylist()
    seen = set(zip(*dataset.interaction_edges("train").tolist(), strict=True))
    scores = (graph.users @ graph.items.T).tolist()
    rows = []
    for user, user_id in enumerate(dataset.users["user_id"].to_pylist()):
        unseen = [item for item in range(len(items)) if (user, item) not in seen]
        best = sorted(unseen, key=lambda item: -scores[user][item])[:k]
        ranked = enumerate(best, start=1)
        rows += [(user_id, items[item], rank, scores[user][item]) for rank, item in ranked]
    return sorted(rows, key=lambda row: (row[0], row[2]))


def _check(config: Any, *users: str, k: int = 3) -> None:
    """Compare what is published for these users, or for all, with what is expected."""
    expected = [row for row in _expected(config, k) if row[0] in users or not users]
    rows = [tuple(row.values()) for row in _rows_of(config, k)]
    assert [row[:3] for row in rows] == [row[:3] for row in expected]
    assert [row[3] for row in rows] == pytest.approx([row[3] for row in expected], abs=1e-5)


@pytest.mark.parametrize("is_here", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_run_gives_each_users_best_unseen_items_by_brute_force(make_config, request, is_here):
    config = make_config()
    if is_here:
        manifest = _run(config)
    else:
        request.getfixturevalue("ray_cluster")
        manifest = recommend.run_recommend(config, _plan(config, 12))  # by two processes
    num_rows = 21 * 3 + 2  # u7 has seen all but two, and u8 all
    counts = {"recommendations": num_rows, "users": 23, "users_without_items": 1}
    assert manifest.row_counts == counts
    _check(config)
    _check(config, k=1)
    failed = published(config.artifact("recommendations")).dataset(status="failed").to_table()
    (row,) = failed.select(["user_id", "reason", "message"]).to_pylist()
    assert [*row.values()] == ["u8", "all_items_seen", "the user has seen every item"]
    with raises(ConfigError, "too_large", "k", 4):
        _rows_of(config, k=4)
    table = deltalake.DeltaTable(config.artifact("recommendations"))
    rows, theirs = _rows_of(config), table.to_pyarrow_table().filter(pc.field("status") == "ok")
    by_rank = [("user_id", "ascending"), ("rank", "ascending")]
    assert theirs.sort_by(by_rank).select([*rows[0]]).to_pylist() == rows
    (comment,) = (field.metadata for field in table.schema().fields if field.name == "score")
    assert comment["comment"] == "dot product of the user's and the item's vector"


@needs_faiss
def test_run_by_an_index_says_how_many_of_the_best_it_found(make_config, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = make_config(index="hnsw")
    metrics = _run(config).metrics
    assert (metrics["recall_of_index"], metrics["compared_users"]) == (1, 23)  # of 15 items
    _check(config)
    task = load_task(make_config(index="hnsw", user_ids=["u5", "u3", "u5"]))
    costs = task.do(pa.table({"user_id": [f"u{user}" for user in range(23)]})).costs
    assert costs == {"compared_users": 2, "sum_of_recalls": 2}  # those who are asked for


_die = Mock(side_effect=Killed)


def test_run_that_is_done_starts_no_actor_and_is_published_without_ray(make_config, monkeypatch):
    config = make_config()
    assert _publish(config) is None
    with monkeypatch.context() as patch:
        patch.setattr("xrec.bulk.driver.publish", _die)
        with pytest.raises(Killed):
            _run(config)
    manifest = _publish(config)
    assert manifest.row_counts["users"] == 23
    pool = PoolHere(before=_die)
    assert _run(config, pool=pool) == manifest
    assert pool.num_starts == 0


def test_run_users_that_kill_their_process_end_it_and_are_done_later(make_config, monkeypatch):
    """Also if the next one is stopped: what was finished before lacks users, and is not the end."""
    config = make_config(user_ids=["u3", "u5"])
    with monkeypatch.context() as patch:
        patch.setattr(RankingTask, "do", _die)
        with raises(ClusterError, "users_not_ranked", saw=2):
            _run(config, 1)
    assert _publish(config) is None

    def stop(chunk: int) -> None:
        if chunk == 1:  # of the retry's two
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(config, 1, PoolHere(before=stop))
    assert Survey(_plan(config, 1)).summary.num_ok == 1
    assert _publish(config) is None
    assert _run(config, 1).row_counts["users_without_items"] == 0
    _check(config, "u3", "u5")


def test_recommendations_of_another_table_are_refused(tmp_path):
    place = Place(str(tmp_path / "explanations"), StorageConfig())
    toy_run(place, tmp_path).complete()
    with pytest.raises(ArtifactMismatchError):
        list(recommend.recommendation_batches(place.uri))


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


def _rough_index(items: Tensor, lost: Any) -> ItemIndex:
    return ItemIndex("items", items, lost, num_links=4, num_build=8, num_search=16)


@needs_faiss
def test_index_finds_nearly_all_of_the_best_and_no_seen_or_lost_item(tmp_path, monkeypatch):
    """Also for users who have seen nearly all, and for whom it finds too few."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
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
    found.index, found.compared = _rough_index(items, dataset.lost_items), np.arange(0, 99)
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
@pytest.mark.parametrize("kept", [0, 1000, -1])
def test_index_is_a_file_of_the_node_and_is_made_again_if_it_is_cut_off(
    tmp_path, monkeypatch, kept
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    items = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    given = (items[:3], items, SeenItems(torch.zeros(2, 0).long()), torch.arange(3), 5)
    ((_, *first),) = ItemIndex("items", items, np.empty(0, np.int64)).top_k(*given)
    (file,) = tmp_path.glob("*/*/*.hnsw")
    content, made_at = file.read_bytes(), file.stat().st_mtime_ns
    ((_, *again),) = ItemIndex("items", items, np.empty(0, np.int64)).top_k(*given)
    assert file.stat().st_mtime_ns == made_at
    file.write_bytes(content[:kept])
    ((_, *mended),) = ItemIndex("items", items, np.empty(0, np.int64)).top_k(*given)
    assert file.read_bytes() == content
    for each in (again, mended):
        assert all(map(torch.equal, each, first))


def test_identity_is_of_inputs_k_index_and_set_of_users(make_config, tmp_path):
    def identity(**values: Any) -> Identity:
        return identify_recommendations(make_config(**values), lambda name: name)

    one = identity(user_ids=["u3", "u1", "u3"])
    assert set(one.inputs) == {"dataset", "graph"}
    assert list(tmp_path.iterdir()) == []
    both = {"user_ids": ["u1", "u3"]}
    assert identity(**both).run == one.run
    others = ({"user_ids": ["u1"]}, {}, {**both, "k": 2}, {**both, "index": "hnsw"})
    assert len({one.run, *(identity(**values).run for values in others)}) == 5


def test_what_cannot_be_recommended_is_refused(make_config, tmp_path):
    graph = read_graph(open_location(make_config().artifact("graph")))
    users = graph.users.clone()
    users[4, 1] = torch.nan
    save_graph(tmp_path / "broken", users, graph.items, graph.manifest.inputs["dataset"])
    save_graph(tmp_path / "other", torch.eye(23), torch.eye(23), "0123")
    for values, error, code in (
        ({"k": 16}, ConfigError, "too_large"),
        ({"user_ids": []}, ConfigError, "empty_list"),
        ({"user_ids": ["u2", "u1x"]}, UnknownIdError, "unknown_user"),
        ({"index": "hnsw"}, ConfigError, "package_missing"),
        ({"dataset": f"{tmp_path}/nowhere"}, ArtifactNotFoundError, None),
        ({"graph": f"{tmp_path}/nowhere"}, ArtifactNotFoundError, None),
        ({"graph": f"{tmp_path}/broken"}, DataError, None),
        ({"graph": f"{tmp_path}/other"}, ArtifactMismatchError, None),
    ):
        config = make_config(**values)
        with pytest.raises(error) as raised:  # noqa: PT012
            identify_recommendations(config, lambda name: None)
            read_tables(config)
        assert code in (None, raised.value.code)
