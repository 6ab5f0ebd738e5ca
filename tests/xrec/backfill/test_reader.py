"""Readers see the rows of one version, each once, while a run is under way and after it.

The oracle is deltalake, which reads the log without code of xrec.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.xrec.backfill.runs import output_of, pairs_of, plan, rows_at
from tests.xrec.backfill.toy_engines import Toy
from tests.xrec.bulk.toy_run import PoolHere
from xrec.backfill import finish, read, read_explanations, read_failed
from xrec.backfill.task import explain_task
from xrec.bulk import BulkRun, drive
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, TableError
from xrec.schemas import FAILED, GENERATED
from xrec.storage import Location, read_manifest, write_manifest
from xrec.table import Table, TableFormat

MakeConfig = Callable[..., Any]
PAIRS_OF_USERS = tuple(f"u{user} i{item}" for user in range(6) for item in range(2))
MUTE = ("u1 i0", "u4 i1")


@pytest.fixture(params=["local", "s3"])
def config(request: pytest.FixtureRequest, make_config: MakeConfig) -> Any:
    """A run, once on disk and once on the object store."""
    if request.param == "local":
        return make_config(rows_per_chunk=2)
    s3 = request.getfixturevalue("s3")
    return make_config(rows_per_chunk=2, storage=s3.storage, explanations=f"{s3.new_bucket()}/out")


@pytest.fixture(autouse=True)
def every_chunk_is_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xrec.bulk.ledger.COMMIT_SECONDS", 0.0)


def drive_here(config: Any, run: BulkRun, load: Toy, **settings: Any) -> None:
    task = explain_task(config, run.plan.record.identity, load)
    drive(run, PoolHere(run.worker_settings(task)), holder="test", **settings)


def expected_at(
    output: Location, version: int | None, failed: bool = False
) -> list[dict[str, Any]]:
    """The rows of a version in the columns of GENERATED or FAILED."""
    rows = rows_at(output, version, failed)
    names = FAILED.names if failed else GENERATED.names
    return [{name: row[name] for name in names} for row in rows]


def rows_of(dataset: Any) -> list[dict[str, Any]]:
    """All rows, by user and item."""
    rows: list[dict[str, Any]] = dataset.to_table().to_pylist()
    return sorted(rows, key=lambda row: (row["user_id"], row["item_id"]))


def test_read_gives_exactly_the_committed_rows_while_a_run_is_under_way(
    config: Any, pairs: Callable[..., pa.Table]
) -> None:
    run = plan(config, pairs(*PAIRS_OF_USERS, "nobody i0"))
    output = output_of(config)
    (output / "status=ok" / "part-0-deadbeef.parquet").write_bytes(
        b"of an attempt that never committed: not even Parquet"
    )
    counts = []

    def look(state: Any) -> None:
        explained = rows_of(read(output.uri, storage=config.storage))
        failed = rows_of(read_failed(output.uri, storage=config.storage))
        assert explained == expected_at(output, None)
        assert failed == expected_at(output, None, failed=True)
        assert len({*pairs_of(explained), *pairs_of(failed)}) == state.num_rows
        counts.append(state.num_rows)

    drive_here(config, run, Toy(), on_commit=look)
    assert len(set(counts)) > 3
    with pytest.raises(ArtifactNotFoundError, match="its job did not finish"):
        read_explanations(output.uri, config.storage)
    finish(config, run)
    explained = rows_of(read(output.uri, storage=config.storage))
    assert pairs_of(explained) == sorted(PAIRS_OF_USERS)
    assert rows_of(read_failed(output.uri, storage=config.storage))[0]["reason"] == "unknown_user"
    table = read_explanations(output.uri, config.storage)
    assert table.schema == GENERATED
    assert table.sort_by([("user_id", "ascending"), ("item_id", "ascending")]).to_pylist() == (
        explained
    )


def test_read_without_a_version_sees_nothing_of_a_retry_until_it_is_finished(
    config: Any, pairs: Callable[..., pa.Table], tmp_path: Path
) -> None:
    (tmp_path / "muted").touch()
    toy = Toy(mute=MUTE, muted=str(tmp_path / "muted"))
    run = plan(config, pairs(*PAIRS_OF_USERS))
    output = output_of(config)
    drive_here(config, run, toy)
    first = finish(config, run).version
    before = expected_at(output, first)
    opened = read(output.uri, storage=config.storage)
    assert len(before) == 10
    (tmp_path / "muted").unlink()
    explained_at: dict[int, int] = {}

    def look(state: Any) -> None:
        assert rows_of(read(output.uri, storage=config.storage)) == before
        failed = rows_of(read_failed(output.uri, storage=config.storage))
        assert pairs_of(failed) == sorted(MUTE)
        newest = run.table.newest_version()
        explained = rows_of(read(output.uri, newest, config.storage))
        failed = rows_of(read_failed(output.uri, newest, config.storage))
        assert sorted(pairs_of(explained) + pairs_of(failed)) == sorted(PAIRS_OF_USERS)
        explained_at[newest] = len(explained)

    drive_here(config, run, toy, on_commit=look, retry=["empty_text"])
    assert set(explained_at.values()) == {10, 11, 12}
    assert rows_of(read(output.uri, storage=config.storage)) == before
    finish(config, run)
    assert pairs_of(rows_of(read(output.uri, storage=config.storage))) == sorted(PAIRS_OF_USERS)
    assert rows_of(read(output.uri, first, config.storage)) == rows_of(opened) == before


def test_read_of_a_plan_without_a_commit_is_empty_and_typed(
    config: Any, pairs: Callable[..., pa.Table]
) -> None:
    uri = plan(config, pairs("u0 i0")).plan.output.uri
    assert read(uri, storage=config.storage).to_table().equals(GENERATED.empty_table())
    assert read_failed(uri, storage=config.storage).to_table().equals(FAILED.empty_table())


def test_read_of_a_version_that_is_not_there_names_those_that_are(
    make_config: MakeConfig, pairs: Callable[..., pa.Table]
) -> None:
    run = plan(make_config(), pairs("u0 i0"))
    with pytest.raises(TableError, match="version 7 is not in the log, which has 0 to 0"):
        read(run.plan.output.uri, version=7)


@pytest.mark.parametrize("version", [None, 3])
def test_read_of_nothing_is_refused(config: Any, version: int | None) -> None:
    with pytest.raises(ArtifactNotFoundError, match="no explanations artifact"):
        read(config.artifact("explanations"), version, config.storage)


def test_read_of_an_older_xrec_s_output_is_refused_finished_or_not(
    make_config: MakeConfig,
) -> None:
    config = make_config()
    output = output_of(config)
    (output / "commits" / "00000.json").write_bytes(b"{}")
    (output / "plan.json").write_bytes(b"{}")
    with pytest.raises(ArtifactMismatchError, match=r"older xrec.*it has plan.json"):
        read(output.uri)
    made = write_manifest(output, "explanations", config={}, inputs={}, version=1)
    older = json.loads(made.to_bytes())
    del older["version"]
    (output / "manifest.json").write_bytes(json.dumps(older).encode())
    for refused in (read, read_failed, read_explanations):
        with pytest.raises(ArtifactMismatchError, match="older xrec"):
            refused(output.uri)


def test_read_of_a_table_of_something_else_is_refused(make_config: MakeConfig) -> None:
    output = output_of(make_config())
    format = TableFormat(pa.schema([pa.field("user_id", pa.string())]))
    Table.create(output.uri, format, run="other")
    with pytest.raises(ArtifactMismatchError, match=r"without the columns .*explanation, "):
        read(output.uri)
    write_manifest(output, "recommendations", config={}, inputs={}, version=0)
    with pytest.raises(ArtifactMismatchError, match="holds a recommendations artifact"):
        read(output.uri)
    with pytest.raises(ArtifactMismatchError):
        read_manifest(output, "explanations")
