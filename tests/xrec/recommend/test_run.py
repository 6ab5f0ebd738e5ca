"""A whole run on actors, compared with a sort of every user's scores.

Runs that are interrupted and continued, and runs on s3://, too. Where a test is not about actors,
there is one in this process.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest

from tests.xrec.bulk.toy_run import Killed, PoolHere
from xrec.bulk import RunState, compact, drive, vacuum
from xrec.bulk.driver import _Driver
from xrec.bulk.run import BulkRun, committed_chunks
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
    run_recommend,
)
from xrec.recommend.task import RankingTask
from xrec.storage import Manifest, open_location, write_manifest

pytestmark = pytest.mark.usefixtures("ray_cluster")

MakeConfig = Callable[..., Any]


@pytest.fixture
def actor_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """One actor in this process; its task still gets its tables from Ray."""
    monkeypatch.setattr(
        "xrec.recommend.run.ActorPool", lambda settings, **options: PoolHere(settings)
    )


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
    assert manifest.metrics == {"users_with_fewer_than_k": 1}
    _assert_equal(_read(config), expected)
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


class DriverDied(BaseException):
    """The driver's process is killed here."""


def _stop_after(num_users: int, error: type[BaseException], monkeypatch: Any) -> None:
    """Let the driver end by `error` once so many users are committed."""
    monkeypatch.setattr("xrec.bulk.ledger.COMMIT_FILES", 1)

    @contextmanager
    def counter(description: str, total: int) -> Iterator[Callable[[int], None]]:
        def show(done: int) -> None:
            if done >= num_users:
                raise error

        yield show

    monkeypatch.setattr("xrec.recommend.run.counter", counter)


@pytest.mark.usefixtures("actor_here")
def test_run_interrupted_says_how_to_go_on_and_does_the_users_that_are_left(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config()
    with monkeypatch.context() as patch:
        _stop_after(10, KeyboardInterrupt, patch)
        with caplog.at_level(logging.WARNING, "xrec"), pytest.raises(KeyboardInterrupt):
            _run(config)
    assert "of 23 users are ranked; run the same command again to go on" in caplog.text
    with pytest.raises(ArtifactNotFoundError, match="no recommendations artifact"):
        _read(config)
    run = _plan(make_config(users_per_task=2))  # the plan stays as it is
    before = run.table.snapshot()
    assert 10 <= before.rows / 3 < 23
    assert 0 < len(committed_chunks(before)) < run.plan.record.num_chunks
    manifest = _run(config)
    assert manifest.row_counts["users"] == 23
    _assert_equal(_read(config), _expected(config))
    kept = set(before.files()["path"].to_pylist())
    assert kept < set(run.table.snapshot().files()["path"].to_pylist())


@pytest.mark.usefixtures("actor_here")
def test_run_whose_driver_was_killed_goes_on_and_another_beside_it_is_refused(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    with monkeypatch.context() as patch:
        _stop_after(5, DriverDied, patch)
        patch.setattr(_Driver, "leave", lambda driver: None)
        with pytest.raises(DriverDied):
            _run(config)
    with pytest.raises(LeaseError, match="runs this job, and is taken for alive"):
        _run(config)
    manifest = _run(make_config(take_over=True))
    _assert_equal(_read(config), _expected(config))
    (_plan(config).table.location / "manifest.json").delete()  # it died just before it wrote it
    again = publish_recommendations(_plan(config))
    assert again is not None
    assert again.model_copy(update={"created_at": manifest.created_at}) == manifest


@pytest.mark.usefixtures("actor_here")
def test_run_finished_starts_no_actor_and_another_run_is_refused(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    manifest = _run(config)

    def work(*arguments: object) -> None:
        raise AssertionError("a finished run started to work")

    monkeypatch.setattr("tests.xrec.bulk.toy_run.PoolHere.start", work)
    assert _run(config) == manifest
    with pytest.raises(ArtifactMismatchError, match=r"holds another run:\n  config.k: 3 there, 2"):
        _plan(make_config(k=2))


@pytest.mark.usefixtures("actor_here")
def test_run_is_read_after_compaction_and_vacuum(make_config: MakeConfig) -> None:
    config = make_config()
    manifest = _run(config)
    run = _plan(config)
    compact(run, holder="upkeep")
    vacuum(run, holder="upkeep")
    _assert_equal(_read(config), _expected(config))
    compacted = publish_recommendations(run)
    assert compacted is not None
    assert (compacted.version or 0) > (manifest.version or 0)
    assert run.table.snapshot().files().num_rows == 1
    _assert_equal(_read(config), _expected(config))


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

    def stop(state: RunState) -> None:
        if not state.failed:
            raise KeyboardInterrupt

    def drive_until_none_is_lost(*arguments: Any, **settings: Any) -> RunState:
        return drive(*arguments, **{**settings, "on_commit": stop})

    with monkeypatch.context() as patch:
        patch.setattr(RankingTask, "do", _die)
        with pytest.raises(ClusterError):
            _run(config)
    with monkeypatch.context() as patch:
        patch.setattr("xrec.bulk.ledger.COMMIT_FILES", 1)
        patch.setattr("xrec.recommend.run.drive", drive_until_none_is_lost)
        with pytest.raises(KeyboardInterrupt):
            _run(config)
    assert publish_recommendations(_plan(config)) is None
    assert _run(config).row_counts["users_without_items"] == 0
    _assert_equal(_read(config), [row for row in _expected(config) if row[0] in ("u3", "u5")])


def test_run_of_an_older_xrec_is_refused(make_config: MakeConfig) -> None:
    config = make_config()
    output = open_location(config.artifact("recommendations"))
    (output / "part-00002.parquet").write_bytes(b"")
    with pytest.raises(TableError, match=r"1 other files, such as part-00002.parquet"):
        _plan(config)
    write_manifest(output, "recommendations", config={"k": 2}, inputs={}, files={})
    with pytest.raises(ArtifactMismatchError, match="an older xrec wrote them"):
        _read(config)


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
