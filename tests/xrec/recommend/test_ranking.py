"""Whole runs, compared with a sort of every user's scores; eligibility; refusals."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from tests.errors import raises
from tests.world.here import map_here
from tests.world.shop import with_uris
from tests.world.town import make_dataset, pair_rows
from tests.world.workspace import save_graph
from xrec.config import RecommendConfig, parse_config
from xrec.data import Dataset, edges_of, read_dataset
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, ConfigError, DataError
from xrec.graph.artifact import GraphEmbeddings, read_graph
from xrec.graph.index import ItemIndex
from xrec.graph.ranking import SeenItems
from xrec.recommend import identify, read_recommendations
from xrec.recommend.ranking import Ranker, recommend
from xrec.storage import Manifest, location_of, open_location

NUM_USERS, NUM_ITEMS, DIM = 23, 15, 4
needs_faiss = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None, reason="the extra index is not installed"
)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """Users u0 to u22: u7 has two unseen items, u8 none; u2 disliked i0 and i1.

    The interaction of u0 and i9 is held out. IDs do not sort like their numbers. No test writes
    here.
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
    interactions = [*pair_rows(*seen, split="train"), *pair_rows((0, 9), split="test")]
    tables = {"users": users, "items": items, "interactions": interactions}
    tables |= {"explanations": pair_rows((0, 9), explanation="Quiet.", split="test")}
    dataset = make_dataset(root, **tables, dislikes=pair_rows((2, 0), (2, 1)))
    draw = torch.Generator().manual_seed(0)
    vectors = [torch.randn(count, DIM, generator=draw) for count in (NUM_USERS, NUM_ITEMS)]
    save_graph(root / "graph", *vectors, dataset)
    return root


@pytest.fixture
def make_config(workspace, tmp_path):
    def make(**values: Any) -> RecommendConfig:
        defaults = {
            "workspace": str(workspace),
            "recommendations": str(tmp_path / "recommendations"),
            "k": 3,
        }
        return parse_config(RecommendConfig, with_uris({**defaults, **values}))

    return make


def _run(config: Any, users_per_part: int = 5) -> Manifest:
    """Rank in this process, one part of the users after the other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xrec.processes.map_in_processes", map_here)
        return recommend(config, users_per_part=users_per_part)


def _rows_of(config: Any) -> list[dict[str, Any]]:
    parts = read_recommendations(location_of(config, "recommendations"))
    rows = [row for table in parts for row in table.to_pylist()]
    return sorted(rows, key=lambda row: row["user_id"])  # a user's rows are in order already


Pairs = set[tuple[str, str]]


def _expected(config: Any, k: int, out: Pairs = frozenset()) -> list[tuple[str, str, int, float]]:
    """Return user_id, item_id, rank and score for every user, by user_id and rank."""
    dataset = read_dataset(location_of(config, "dataset"))
    graph = read_graph(location_of(config, "graph"))
    items = dataset.items["item_id"].to_pylist()
    known = (dataset.interactions, dataset.dislikes)
    seen = {pair for table in known for pair in zip(*edges_of(table).tolist(), strict=True)}
    scores = (graph.users @ graph.items.T).tolist()
    rows = []
    for user, user_id in enumerate(dataset.users["user_id"].to_pylist()):
        unseen = [
            item
            for item, item_id in enumerate(items)
            if (user, item) not in seen and (user_id, item_id) not in out
        ]
        best = sorted(unseen, key=lambda item: -scores[user][item])[:k]
        ranked = enumerate(best, start=1)
        rows += [(user_id, items[item], rank, scores[user][item]) for rank, item in ranked]
    return sorted(rows, key=lambda row: (row[0], row[2]))


def _check(config: Any, k: int = 3, out: Pairs = frozenset()) -> None:
    """Compare all rows with the expected ones."""
    expected, rows = _expected(config, k, out), [tuple(row.values()) for row in _rows_of(config)]
    assert [row[:3] for row in rows] == [row[:3] for row in expected]
    assert [row[3] for row in rows] == pytest.approx([row[3] for row in expected], abs=1e-5)


@pytest.mark.parametrize("is_here", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_run_gives_each_users_best_new_items_by_brute_force(make_config, request, is_here):
    config = make_config()
    if is_here:
        manifest = _run(config)
    else:
        request.getfixturevalue("ray_cluster")
        manifest = recommend(config, users_per_part=12)  # by two processes
    num_rows = 21 * 3 + 2  # u7 has seen all but two, and u8 all
    counts = {"recommendations": num_rows, "users": 23, "users_without_items": 1}
    assert manifest.row_counts == counts
    _check(config)
    assert not {("u0", "i9"), ("u2", "i0"), ("u2", "i1")} & {
        (user, item) for user, item, *_ in _expected(config, 15)
    }


def test_user_without_interactions_gets_what_the_mean_user_likes_but_no_dislike(make_config):
    config = make_config()
    dataset = read_dataset(location_of(config, "dataset"))
    graph = read_graph(location_of(config, "graph"))
    vectors, user = graph.users.clone(), dataset.user_index("u2")  # who disliked i0 and i1
    vectors[user] = 0
    wanted = (graph.items @ vectors.mean(dim=0)).argsort(descending=True).tolist()
    edges = dataset.known_edges()
    known = edges[1, edges[0] == user].tolist()
    rows, _ = Ranker(dataset, replace(graph, users=vectors), 3).rank(np.array([user]))
    best = [dataset.items["item_id"][item].as_py() for item in wanted if item not in known]
    assert rows["item_id"].to_pylist() == best[:3]


def test_run_without_anything_to_recommend_raises_and_writes_nothing(make_config, tmp_path):
    (tmp_path / "stock.csv").write_text("item_id\ni0\n")
    config = make_config(eligible={"items": str(tmp_path / "stock.csv")})
    assert _run(config).row_counts["users_without_items"] > 1
    (tmp_path / "stock.csv").write_text("item_id\nno such item\n")
    with raises(DataError, "nothing_eligible", "eligible.items"):
        _run(config.with_artifacts({"recommendations": str(tmp_path / "other")}))
    assert not (tmp_path / "other").exists()


STOCK = [("i0", "north", ""), ("i1", "", "adult"), *((f"i{n}", "", "") for n in range(3, 9))]
STOCK += [("i0", "south", "adult"), ("not in the dataset", "", "")]


def _customers() -> list[tuple[str, str, str]]:
    """Return users with a region and an age; some are unknown."""
    regions, ages = ("north", "south", "", "west"), ("adult", "minor", "")
    return [(f"u{n}", regions[n % 4], ages[n % 3]) for n in range(22)]  # without u22


def _write(path: Path, names: str, rows: list[tuple[str, ...]]) -> str:
    if path.suffix == ".parquet":
        columns = dict(zip(names.split(","), map(list, zip(*rows, strict=True)), strict=True))
        pq.write_table(pa.table(columns), path)
    else:
        path.write_text("\n".join([names, *map(",".join, rows)]) + "\n")
    return str(path)


@pytest.mark.parametrize(
    ("ending", "index"),
    [("csv", "exact"), ("parquet", "exact"), pytest.param("csv", "hnsw", marks=needs_faiss)],
)
def test_items_are_recommended_only_to_users_who_may_get_them(
    make_config, tmp_path, monkeypatch, ending, index
):
    """Items in stock, for the user's region and age; an unknown region or age matches none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    customers = _customers()
    eligible = {
        "items": _write(tmp_path / f"stock.{ending}", "item_id,region,age", STOCK),
        "users": _write(tmp_path / f"customers.{ending}", "user_id,region,age", customers),
    }
    known = {user: (region, age) for user, region, age in customers}

    def may_get(user: int, item: int) -> bool:
        region, age = known.get(f"u{user}", ("", ""))
        return any(
            name == f"i{item}" and where in ("", region or None) and whose in ("", age or None)
            for name, where, whose in STOCK
        )

    pairs = [(user, item) for user in range(NUM_USERS) for item in range(NUM_ITEMS)]
    out = {(f"u{user}", f"i{item}") for user, item in pairs if not may_get(user, item)}
    config = make_config(k=5, index=index, eligible=eligible)
    _run(config)
    _check(config, 5, out)
    assert {item for _, item, *_ in _expected(config, 5, out)} >= {"i0", "i1"}


def test_identity_has_inputs_settings_and_the_content_of_the_eligible_items(make_config, tmp_path):
    plain = identify(make_config())
    assert set(plain[1]) == {"dataset", "graph"}
    for values in ({"k": 2}, {"index": "hnsw"}):
        assert identify(make_config(**values), lambda name: name) != plain
    stock, other = (str(tmp_path / f"{name}.csv") for name in "ab")
    for path in (stock, other):
        Path(path).write_text("item_id\ni1\n")
    one = identify(make_config(eligible={"items": stock}))
    assert one == identify(make_config(eligible={"items": other}))
    Path(other).write_text("item_id\ni2\n")
    assert one[1] != identify(make_config(eligible={"items": other}))[1]
    assert one != plain


def _dataset(num_users: int, num_items: int, edges: Tensor, lost: list[int]) -> Dataset:
    """Return a dataset with the interactions `edges` (2, E), without the `lost` items."""
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
    """This includes users who have seen nearly all items, for whom the index finds too few."""
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
    asked = np.array([0, 5, *range(9, 300)])
    found = Ranker(dataset, graph, 10)
    rough = {"num_links": 4, "num_build": 8, "num_search": 16}
    found.index = ItemIndex("items", items, dataset.lost_items, **rough)
    found.compared = np.arange(0, 99)
    (mine, recalls), (theirs, none) = found.rank(asked), Ranker(dataset, graph, 10).rank(asked)
    rows, expected = mine.to_pandas(), theirs.to_pandas()
    assert rows.user_id.nunique() < len(asked)  # some have seen all
    assert rows[["user_id", "rank"]].equals(expected[["user_id", "rank"]])
    assert "" not in set(rows.item_id)
    for each in (rows, expected):
        for name in ("user_id", "item_id"):
            each[name] = each[name].str[1:].astype(int)
    dots = (users[rows.user_id].double() * items[rows.item_id].double()).sum(dim=1).numpy()
    np.testing.assert_allclose(rows.score, dots, rtol=1e-5)
    assert (rows.groupby("user_id").score.diff().dropna() <= 0).all()
    pairs, wanted = ({*zip(each.user_id, each.item_id, strict=True)} for each in (rows, expected))
    assert not pairs & {*zip(*edges.tolist(), strict=True)}
    assert 0.5 < len(pairs & wanted) / len(wanted) < 1
    assert (len(recalls), none) == (92, ())
    assert sum(recalls) == pytest.approx(sum(user < 99 for user, _ in pairs & wanted) / 10)


@needs_faiss
@pytest.mark.parametrize("kept", [0, 1000, -1])
def test_index_is_a_file_of_the_node_and_is_built_again_if_truncated(tmp_path, monkeypatch, kept):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    items = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    given = (items[:3], items, SeenItems(torch.zeros(2, 0).long()), torch.arange(3), 5)
    ((_, *first),) = ItemIndex("items", items, np.empty(0, np.int64)).top_k(*given)
    (file,) = tmp_path.glob("*/*/*.hnsw")
    content, inode = file.read_bytes(), file.stat().st_ino  # opening a file changes its time
    ((_, *again),) = ItemIndex("items", items, np.empty(0, np.int64)).top_k(*given)
    assert file.stat().st_ino == inode
    file.write_bytes(content[:kept])
    ((_, *rebuilt),) = ItemIndex("items", items, np.empty(0, np.int64)).top_k(*given)
    assert file.read_bytes() == content
    for each in (again, rebuilt):
        assert all(map(torch.equal, each, first))


def test_unusable_settings_and_artifacts_are_refused(make_config, tmp_path):
    graph = read_graph(open_location(make_config().artifact("graph")))
    users = graph.users.clone()
    users[4, 1] = torch.nan
    save_graph(tmp_path / "broken", users, graph.items, graph.manifest.inputs["dataset"])
    save_graph(tmp_path / "other", torch.eye(23), torch.eye(23), "0123")
    for values, error, code in (
        ({"k": 16}, ConfigError, "too_large"),
        ({"index": "hnsw"}, ConfigError, "package_missing"),
        ({"dataset": f"{tmp_path}/nowhere"}, ArtifactNotFoundError, None),
        ({"graph": f"{tmp_path}/nowhere"}, ArtifactNotFoundError, None),
        ({"graph": f"{tmp_path}/broken"}, DataError, None),
        ({"graph": f"{tmp_path}/other"}, ArtifactMismatchError, None),
    ):
        config = make_config(**values)
        with pytest.raises(error) as raised:  # noqa: PT012
            identify(config, lambda name: None)
            _run(config)
        assert code in (None, raised.value.code)
