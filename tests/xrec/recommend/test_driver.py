"""A whole run on actors, compared with a sort of every user's scores.

Where a test is not about actors, there is one in this process.
"""

from typing import Any
from unittest.mock import Mock

import deltalake
import pyarrow.compute as pc
import pytest

from tests.world.here import Killed, Place, PoolHere, pool_here
from tests.world.store import copy_files
from tests.xrec.bulk.toy_run import toy_run
from tests.xrec.recommend.conftest import needs_faiss
from xrec import recommend
from xrec.bulk import BulkRun, Survey, published
from xrec.config.shared import StorageConfig
from xrec.data import read_dataset
from xrec.errors import ArtifactMismatchError, ClusterError, ConfigError
from xrec.graph.artifact import read_graph
from xrec.recommend import RankingTask
from xrec.storage import Manifest, open_location

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def actor_here(monkeypatch):
    """One actor in this process; its task still gets its tables from Ray."""
    monkeypatch.setattr("xrec.recommend._pool", pool_here)


def _plan(config: Any) -> BulkRun:
    return recommend.plan_recommendations(config, recommend.read_tables(config)[0])


def _run(config: Any) -> Manifest:
    return recommend.run_recommend(config, _plan(config))


def _publish(config: Any) -> Manifest | None:
    return recommend.publish_recommendations(_plan(config))


def _read(config: Any, k: int | None = None) -> list[dict[str, Any]]:
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
    rows = [tuple(row.values()) for row in _read(config, k)]
    assert [row[:3] for row in rows] == [row[:3] for row in expected]
    assert [row[3] for row in rows] == pytest.approx([row[3] for row in expected], abs=1e-5)


def test_run_gives_each_users_best_unseen_items_by_brute_force(make_config):
    config = make_config(users_per_chunk=12)  # two tasks, so two processes
    manifest = _run(config)
    num_rows = 21 * 3 + 2  # u7 has seen all but two, and u8 all
    counts = {"recommendations": num_rows, "users": 23, "users_without_items": 1}
    assert manifest.row_counts == counts
    _check(config)
    _check(config, k=1)
    failed = published(config.artifact("recommendations")).dataset(status="failed").to_table()
    (row,) = failed.select(["user_id", "reason", "message"]).to_pylist()
    assert [*row.values()] == ["u8", "all_items_seen", "the user has seen every item"]
    with pytest.raises(ConfigError, match=r"k = 4, but .*recommendations holds 3 items a user"):
        _read(config, k=4)
    table = deltalake.DeltaTable(config.artifact("recommendations"))
    rows, theirs = _read(config), table.to_pyarrow_table().filter(pc.field("status") == "ok")
    by_rank = [("user_id", "ascending"), ("rank", "ascending")]
    assert theirs.sort_by(by_rank).select([*rows[0]]).to_pylist() == rows
    (comment,) = (field.metadata for field in table.schema().fields if field.name == "score")
    assert comment["comment"] == "dot product of the user's and the item's vector"


_die = Mock(side_effect=Killed)


def _stop_at(chunk: int, error: type[BaseException], monkeypatch: Any) -> None:
    """Let the driver end by `error` when it comes to that chunk."""

    def stop(number: int) -> None:
        if number == chunk:
            raise error

    monkeypatch.setattr("xrec.recommend._pool", lambda: PoolHere(before=stop))


@pytest.mark.usefixtures("actor_here")
def test_run_that_is_done_starts_no_actor_and_is_published_without_ray(make_config, monkeypatch):
    config = make_config()
    assert _publish(config) is None
    with monkeypatch.context() as patch:
        patch.setattr("xrec.bulk.driver.publish", _die)
        with pytest.raises(Killed):
            _run(config)
    monkeypatch.setattr(PoolHere, "summaries", _die)
    manifest = _publish(config)
    assert manifest.row_counts["users"] == 23
    assert _run(config) == manifest


@needs_faiss
@pytest.mark.usefixtures("actor_here")
def test_run_by_an_index_says_how_many_of_the_best_it_found(make_config):
    manifest = _run(config := make_config(index="hnsw"))
    told = manifest.metrics["recall_of_index"], manifest.metrics["compared_users"]
    assert told == (1, 23)  # of 15 items
    _check(config)


@pytest.mark.usefixtures("actor_here")
def test_run_users_that_kill_their_process_end_it_and_are_done_later(make_config, monkeypatch):
    """Also if the next one is stopped: what was finished before lacks users, and is not the end."""
    config = make_config(user_ids=["u3", "u5"], users_per_chunk=1)
    with monkeypatch.context() as patch:
        patch.setattr(RankingTask, "do", _die)
        with pytest.raises(ClusterError, match="2 of 2 users are not ranked: 4 processes died"):
            _run(config)
    assert _publish(config) is None
    with monkeypatch.context() as patch:
        _stop_at(1, KeyboardInterrupt, patch)  # of the retry's two chunks
        with pytest.raises(KeyboardInterrupt):
            _run(config)
    assert Survey(_plan(config)).summary.num_ok == 1
    assert _publish(config) is None
    assert _run(config).row_counts["users_without_items"] == 0
    _check(config, "u3", "u5")


def test_recommendations_of_another_table_are_refused(tmp_path):
    place = Place(str(tmp_path / "explanations"), StorageConfig())
    toy_run(place, tmp_path).complete()
    with pytest.raises(ArtifactMismatchError, match="table without the columns item_id, rank"):
        list(recommend.recommendation_batches(place.uri))


@pytest.mark.usefixtures("actor_here")
def test_run_of_named_users_on_s3_by_the_configs_keys(make_config, s3):
    town = f"{s3.new_bucket()}/town"
    for name in ("dataset", "graph"):
        copy_files(
            open_location(make_config().artifact(name)), open_location(f"{town}/{name}", s3.storage)
        )
    on_s3 = {"workspace": town, "recommendations": None, "storage": s3.storage}
    config = make_config(**on_s3, user_ids=["u7", "u12", "u3", "u7"], users_per_chunk=2)
    assert _run(config).row_counts["users"] == 3
    _check(config, "u12", "u3", "u7")
