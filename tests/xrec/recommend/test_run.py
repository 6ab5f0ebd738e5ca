"""A whole run on actors, compared with a sort of every user's scores.

Runs that are interrupted and continued, and runs on s3://, too. Where a test is not about actors,
there is one in this process.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest

from tests.xrec.bulk.conftest import Place
from tests.xrec.bulk.toy_run import Killed, PoolHere, pool_here, toy_run
from xrec.bulk import BulkRun, Survey
from xrec.bulk.driver import _Driver
from xrec.config.shared import StorageConfig
from xrec.data import read_dataset
from xrec.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    ClusterError,
    ConfigError,
    LeaseError,
    TableError,
)
from xrec.graph import read_graph
from xrec.recommend import (
    plan_recommendations,
    publish_recommendations,
    read_recommendations,
    read_tables,
    recommendation_batches,
    run_recommend,
)
from xrec.recommend.task import RankingTask
from xrec.storage import Manifest, open_location

pytestmark = pytest.mark.usefixtures("ray_cluster")

MakeConfig = Callable[..., Any]


@pytest.fixture
def actor_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """One actor in this process; its task still gets its tables from Ray."""
    monkeypatch.setattr("xrec.recommend.run.RayPool", pool_here)


def _plan(config: Any) -> BulkRun:
    return plan_recommendations(config, read_tables(config))


def _run(config: Any) -> Manifest:
    tables = read_tables(config)
    return run_recommend(config, plan_recommendations(config, tables), tables)


def _read(config: Any, k: int | None = None) -> pa.Table:
    return read_recommendations(config.artifact("recommendations"), k, storage=config.storage)


def _expected(config: Any) -> list[tuple[str, str, int, float]]:
    """user_id, item_id, rank, score of every user, by user_id and rank."""
    dataset, graph = (
        read_dataset(open_location(config.artifact("dataset"))),
        read_graph(open_location(config.artifact("graph"))),
    )
    seen = set(zip(*dataset.interaction_edges("train").tolist(), strict=True))
    rows = []
    for user, user_id in enumerate(dataset.users["user_id"].to_pylist()):
        scores = {
            item: float(graph.users[user] @ graph.items[item])
            for item in range(dataset.num_items)
            if (user, item) not in seen
        }
        best = sorted(scores, key=lambda item: -scores[item])[: config.k]
        rows += [
            (user_id, dataset.items["item_id"][item].as_py(), rank, scores[item])
            for rank, item in enumerate(best, start=1)
        ]
    return sorted(rows, key=lambda row: (row[0], row[2]))


def _assert_equal(table: pa.Table, expected: list[tuple[str, str, int, float]]) -> None:
    rows = table.to_pylist()
    assert [(row["user_id"], row["item_id"], row["rank"]) for row in rows] == [
        row[:3] for row in expected
    ]
    assert [row["score"] for row in rows] == pytest.approx([row[3] for row in expected], abs=1e-5)


def test_run_gives_each_users_best_unseen_items_by_brute_force(make_config: MakeConfig) -> None:
    config = make_config()
    manifest = _run(config)
    expected = _expected(config)
    assert len(expected) == 22 * 3 + 2  # u7 has seen all but two
    assert manifest.row_counts == {
        "recommendations": len(expected),
        "users": 23,
        "users_without_items": 0,
    }
    assert manifest.metrics["users_with_fewer_than_k"] == 1
    _assert_equal(_read(config), expected)
    batches = recommendation_batches(config.artifact("recommendations"), storage=config.storage)
    rows = [row for table in batches for row in table.to_pylist()]
    rows.sort(key=lambda row: row["user_id"])  # a stable sort: a user's rows have their order
    assert rows == _read(config).to_pylist()
    _assert_equal(_read(config, k=1), [row for row in expected if row[2] == 1])
    with pytest.raises(ConfigError, match=r"k = 4, but .*recommendations holds 3 items a user"):
        _read(config, k=4)


@pytest.mark.usefixtures("actor_here")
def test_run_is_a_table_that_other_readers_of_delta_read(make_config: MakeConfig) -> None:
    config = make_config()
    manifest = _run(config)
    table = deltalake.DeltaTable(config.artifact("recommendations"), version=manifest.version)
    rows = pa.table(table.to_pyarrow_table())
    assert set(rows["status"].to_pylist()) == {"ok"}
    ours = _read(config)
    theirs = rows.sort_by([("user_id", "ascending"), ("rank", "ascending")])
    assert theirs.select(ours.column_names).to_pylist() == ours.to_pylist()
    comments = {
        field.name: (field.metadata or {}).get("comment") for field in table.schema().fields
    }
    assert comments["score"] == "dot product of the user's and the item's vector"


def _stop_at(chunk: int, error: type[BaseException], monkeypatch: Any) -> None:
    """Let the driver end by `error` when it comes to that chunk."""

    def stop(number: int) -> None:
        if number == chunk:
            raise error

    monkeypatch.setattr("xrec.recommend.run.RayPool", lambda **_: PoolHere(before=stop))


@pytest.mark.usefixtures("actor_here")
def test_run_interrupted_says_how_to_go_on_and_does_the_users_that_are_left(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config()
    with monkeypatch.context() as patch:
        _stop_at(2, KeyboardInterrupt, patch)
        with caplog.at_level(logging.WARNING, "xrec"), pytest.raises(KeyboardInterrupt):
            _run(config)
    assert "10 of 23 rows are done; run the same command again to go on" in caplog.text
    with pytest.raises(ArtifactNotFoundError, match="nothing was published"):
        _read(config)
    run = _plan(make_config(users_per_task=2))  # the plan stays as it is
    assert run.record.size.num_chunks == 5
    before = run.passes()[0].results
    kept = {name: (before.location / name).read_bytes() for name in before.location.sizes()}
    assert len(kept) == 2
    manifest = _run(config)
    assert manifest.row_counts["users"] == 23
    _assert_equal(_read(config), _expected(config))
    assert {name: (before.location / name).read_bytes() for name in kept} == kept


class DriverDied(BaseException):
    """The driver's process is killed here."""


@pytest.mark.usefixtures("actor_here")
def test_run_whose_driver_was_killed_goes_on_and_another_beside_it_is_refused(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    with monkeypatch.context() as patch:
        _stop_at(1, DriverDied, patch)
        patch.setattr(_Driver, "leave", lambda driver: None)
        with pytest.raises(DriverDied):
            _run(config)
    with pytest.raises(LeaseError, match="works on this run, and is taken for alive"):
        _run(config)
    manifest = _run(make_config(alongside=True))
    _assert_equal(_read(config), _expected(config))
    assert publish_recommendations(_plan(config)) == manifest


@pytest.mark.usefixtures("actor_here")
def test_run_that_is_done_starts_no_actor_and_is_published_without_ray(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    assert publish_recommendations(_plan(config)) is None

    def die(*arguments: Any, **settings: Any) -> None:
        raise DriverDied

    with monkeypatch.context() as patch:
        patch.setattr("xrec.bulk.driver.publish", die)
        with pytest.raises(DriverDied):
            _run(config)
    monkeypatch.setattr(PoolHere, "summaries", die)
    manifest = publish_recommendations(_plan(config))
    assert manifest is not None
    assert manifest.row_counts["users"] == 23
    assert _run(config) == manifest


@pytest.mark.usefixtures("actor_here")
def test_run_of_other_settings_takes_the_place_of_the_published_one(
    make_config: MakeConfig,
) -> None:
    _run(make_config())
    other = make_config(k=2)
    manifest = _run(other)
    assert (manifest.version, manifest.config["k"]) == (1, 2)
    _assert_equal(_read(other), _expected(other))


def _die(task: RankingTask, rows: pa.Table) -> None:
    raise Killed


@pytest.mark.usefixtures("actor_here")
def test_run_users_that_kill_their_process_end_it_and_are_done_again_by_the_next(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(user_ids=["u3", "u5"], users_per_task=1)

    with monkeypatch.context() as patch:
        patch.setattr(RankingTask, "do", _die)
        with pytest.raises(ClusterError, match="2 of 2 users are not ranked: 4 processes died"):
            _run(config)
    assert publish_recommendations(_plan(config)) is None
    assert _run(config).row_counts["users_without_items"] == 0
    wanted = [row for row in _expected(config) if row[0] in ("u3", "u5")]
    _assert_equal(_read(config), wanted)


@pytest.mark.usefixtures("actor_here")
def test_run_stopped_while_it_does_users_again_is_finished_by_the_next(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was finished before lacks them, and must not be taken for the end."""
    config = make_config(user_ids=["u3", "u5"], users_per_task=1)
    with monkeypatch.context() as patch:
        patch.setattr(RankingTask, "do", _die)
        with pytest.raises(ClusterError):
            _run(config)
    with monkeypatch.context() as patch:
        _stop_at(1, KeyboardInterrupt, patch)  # of the retry's two chunks
        with pytest.raises(KeyboardInterrupt):
            _run(config)
    assert Survey(_plan(config)).summary.num_ok == 1
    assert publish_recommendations(_plan(config)) is None
    assert _run(config).row_counts["users_without_items"] == 0
    _assert_equal(_read(config), [row for row in _expected(config) if row[0] in ("u3", "u5")])


def test_run_where_other_files_are_is_refused(make_config: MakeConfig) -> None:
    config = make_config()
    output = open_location(config.artifact("recommendations"))
    (output / "part-00002.parquet").write_bytes(b"")
    with pytest.raises(TableError, match=r"holds other files, such as part-00002.parquet"):
        _plan(config)


def test_recommendations_of_another_table_are_refused(tmp_path: Path) -> None:
    place = Place(str(tmp_path / "explanations"), StorageConfig())
    toy_run(place, tmp_path).complete()
    with pytest.raises(ArtifactMismatchError, match="table without the columns item_id, rank"):
        list(recommendation_batches(place.uri))


def test_run_of_named_users_on_s3_by_the_configs_credentials_only(
    make_config: MakeConfig, workspace: Path, s3: Any
) -> None:
    bucket = s3.new_bucket()
    for name in ("dataset", "graph"):
        source, copy = (
            open_location(str(workspace / name)),
            open_location(f"{bucket}/town/{name}", s3.storage),
        )
        for file in source.files():
            (copy / file).write_bytes((source / file).read_bytes())
    on_s3 = {"workspace": f"{bucket}/town", "recommendations": None, "storage": s3.storage}
    config = make_config(**on_s3, user_ids=["u7", "u12", "u3", "u7"], users_per_task=2)
    assert _run(config).row_counts["users"] == 3
    wanted = [row for row in _expected(make_config()) if row[0] in ("u12", "u3", "u7")]
    _assert_equal(_read(config), wanted)
