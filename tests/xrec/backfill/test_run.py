"""Whole runs: typed failures, the threshold, retries and crashes, most through Ray Data's actors.

The rows are compared with the set of pairs that went in.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.xrec.backfill.runs import output_of, pairs_of, plan, rows_by_manifest, run
from tests.xrec.backfill.toy_engines import Toy, calls
from xrec.backfill import Lease, read_explanations, run_backfill
from xrec.backfill.commit import commit_location, committed_chunks
from xrec.backfill.snapshot import read_records
from xrec.backfill.worker import WorkerSettings
from xrec.errors import ArtifactNotFoundError, DataError, LeaseError, StorageNotFoundError
from xrec.generate.explainer import Explainer
from xrec.storage import Location, open_location, parquet_bytes, read_manifest

MakeConfig = Callable[..., Any]
BROKEN = ("nobody i0", "u1 nothing", "u2 wordy", "u3 wordy")
GOOD = tuple(f"u{user} i{item}" for user in range(4) for item in range(3))


@pytest.fixture
def on_s3(make_config: MakeConfig, pairs: Callable[..., pa.Table], s3: Any) -> Callable[..., Any]:
    """Make a config with pairs and output on S3; some of the pairs cannot be explained."""
    bucket = s3.new_bucket()
    table = pairs(*GOOD, *BROKEN, *GOOD[:2])
    (open_location(bucket, s3.storage) / "in" / "pairs.parquet").write_bytes(
        parquet_bytes(table, table.schema)
    )

    def make(**values: Any) -> Any:
        uri = {"pairs": {"kind": "table", "uri": f"{bucket}/in"}, "explanations": f"{bucket}/out"}
        return make_config(storage=s3.storage, **uri, **values)

    return make


@pytest.fixture
def called(tmp_path: Path) -> Path:
    """The folder in which toy engines write their pairs."""
    (tmp_path / "calls").mkdir()
    return tmp_path / "calls"


def _never(settings: WorkerSettings) -> Explainer:
    raise AssertionError(f"an actor was started for {settings.output}")


def _times(output: Location) -> dict[str, Any]:
    return {
        name: (output / name).modified_at()
        for name in output.files()
        if not name.startswith("lease/")
    }


@pytest.mark.usefixtures("ray_cluster")
def test_run_of_good_and_broken_rows_has_each_once_with_its_reason(
    on_s3: Callable[..., Any],
) -> None:
    config = on_s3()
    manifest = run(config, load=Toy())
    output = output_of(config)
    explained, failed = rows_by_manifest(output), rows_by_manifest(output, failed=True)
    assert pairs_of(explained) == sorted(GOOD)
    assert [row["explanation"] for row in explained] == [
        f"explained {pair}" for pair in sorted(GOOD)
    ]
    reasons = dict(zip(pairs_of(failed), (row["reason"] for row in failed), strict=True))
    assert reasons == dict(
        zip(
            BROKEN,
            ("unknown_user", "unknown_item", "prompt_too_long", "prompt_too_long"),
            strict=True,
        )
    )
    assert manifest.metrics["failed_by_reason"] == dict(Counter(reasons.values()))
    assert manifest.row_counts == {"explanations": len(GOOD), "failed": len(BROKEN)}
    assert manifest.metrics["generation"] == 1
    assert (output / "_SUCCESS").is_file()
    report = json.loads((output / "report.json").read_bytes())
    assert (report["num_explained"], report["failed_by_reason"]) == (
        len(GOOD),
        manifest.metrics["failed_by_reason"],
    )
    assert sum(actor["pairs"] for actor in report["actors"]) == len(GOOD) + len(BROKEN)
    assert not any(name.startswith("attempts/") for name in output.files())

    # The file of a late attempt, which no commit names, is not read.
    table = read_explanations(output)
    stray = table.set_column(
        2, table.schema.field("explanation"), pc.utf8_upper(table["explanation"])
    )
    (output / "part-00000-deadbeef.parquet").write_bytes(parquet_bytes(stray, table.schema))
    assert read_explanations(output).equals(table)


@pytest.mark.usefixtures("ray_cluster")
def test_run_over_max_failed_share_stops_with_a_summary_and_raising_it_goes_on_from_there(
    on_s3: Callable[..., Any],
) -> None:
    strict = on_s3(max_failed_share=0.1)  # one of 16 rows may fail
    output = output_of(strict)
    with pytest.raises(
        DataError, match=r"[2-4] of 16 rows failed \(.* 1.*\), more than max_failed_share = 0\.1"
    ) as raised:
        run(strict, load=Toy())
    assert f"{output}/failed" in str(raised.value)
    assert "--retry-failed" in str(raised.value)
    with pytest.raises(ArtifactNotFoundError):
        read_manifest(output, "explanations")
    with pytest.raises(DataError, match="more than max_failed_share"):
        run(strict, load=_never)

    # A file without a record is of an attempt that was ended, and may be written again.
    (record,) = read_records(output)
    committed = {
        *record.files,
        *(
            commit_location(output, commit.chunk).path.removeprefix(f"{output.path}/")
            for commit in record.commits
        ),
    }
    before = {name: time for name, time in _times(output).items() if name in committed}
    assert len(before) == len(committed) > 0
    run(on_s3(max_failed_share=1.0), load=Toy())
    assert {name: time for name, time in _times(output).items() if name in before} == before
    assert sorted(
        pairs_of(rows_by_manifest(output)) + pairs_of(rows_by_manifest(output, failed=True))
    ) == sorted({*GOOD, *BROKEN})


def test_read_explanations_of_an_unfinished_run_is_refused(on_s3: Callable[..., Any]) -> None:
    config = on_s3()
    plan(config)
    with pytest.raises(ArtifactNotFoundError, match=r"out: no explanations artifact"):
        read_explanations(output_of(config))


@pytest.mark.usefixtures("ray_cluster")
def test_run_error_in_an_actor_is_ours_with_its_message(on_s3: Callable[..., Any]) -> None:
    """The files of the plan's chunks are gone: every attempt fails, and the message names one."""
    config = on_s3(rows_per_chunk=100, actors={"num_actors": 1, "device": "cpu"})
    made = plan(config)
    (made.output / "plan").delete()
    with pytest.raises(StorageNotFoundError) as raised:
        run_backfill(config, made, Lease.acquire(made.output, 600.0), Toy())
    assert str(raised.value).startswith(
        f"{made.output}/plan/{made.identity.run}/00000.parquet: not found"
    )
    assert "Traceback" not in str(raised.value)
    assert [name for name in made.output.files() if not name.startswith("lease/")] == ["plan.json"]


@pytest.mark.usefixtures("actors_here")
def test_run_whose_lease_was_taken_over_stops(
    make_config: MakeConfig, pairs: Callable[..., pa.Table]
) -> None:
    config = make_config()
    made = plan(config, pairs(*GOOD))
    lease = Lease.acquire(made.output, term_seconds=0)
    Lease.acquire(made.output, 600.0)
    with pytest.raises(LeaseError):
        lease.renew()
    with pytest.raises(LeaseError, match="runs this backfill"):
        run_backfill(config, made, lease, Toy())
    assert not (made.output / "manifest.json").exists()


@pytest.mark.usefixtures("ray_cluster")
def test_run_that_is_interrupted_says_how_to_go_on_and_lets_the_lease_go(
    make_config: MakeConfig,
    pairs: Callable[..., pa.Table],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def interrupted(commits: Iterator[Any], *arguments: object) -> Iterator[Any]:
        yield next(commits)
        raise KeyboardInterrupt

    config = make_config(rows_per_chunk=2)
    with monkeypatch.context() as patched:
        patched.setattr("xrec.backfill.run.with_status", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(config, pairs(*GOOD), load=Toy())
    (message,) = [
        record.getMessage() for record in caplog.records if "stopped" in record.getMessage()
    ]
    assert re.fullmatch(
        r"stopped: [1-9]\d* of \d+ chunks are committed; "
        r"run the same command again to go on with the others",
        message,
    )
    run(config, pairs(*GOOD), load=Toy())  # the lease is free at once
    assert pairs_of(rows_by_manifest(output_of(config))) == sorted(GOOD)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_run_with_rows_that_kill_their_process_fails_them_and_explains_the_others(
    make_config: MakeConfig, pairs: Callable[..., pa.Table], called: Path
) -> None:
    config = make_config(rows_per_chunk=100, actors={"num_actors": 1, "device": "cpu"})
    manifest = run(
        config, pairs(*GOOD[:5], "nobody i0"), load=Toy(deadly=("u1 i1",), calls=str(called))
    )
    output = output_of(config)
    assert pairs_of(rows_by_manifest(output)) == sorted(set(GOOD[:5]) - {"u1 i1"})
    failed = {
        f"{row['user_id']} {row['item_id']}": row for row in rows_by_manifest(output, failed=True)
    }
    assert {pair: row["reason"] for pair, row in failed.items()} == {
        "u1 i1": "engine_error",
        "nobody i0": "unknown_user",
    }
    assert "2 processes died while they worked on this row alone" in failed["u1 i1"]["message"]
    assert failed["u1 i1"]["item_title"] == "Place 1"
    assert manifest.row_counts == {"explanations": 4, "failed": 2}
    # The chunk is tried twice, then its halves: a death costs the work on one range, and no range
    # that is done is done again.
    counts = Counter(calls(called))
    assert 4 <= counts["u1 i1"] <= 6
    assert max(count for pair, count in counts.items() if pair != "u1 i1") < counts["u1 i1"]


@pytest.mark.usefixtures("actors_here")
def test_run_retry_of_one_reason_supersedes_only_those_rows(
    make_config: MakeConfig, pairs: Callable[..., pa.Table], called: Path
) -> None:
    muted = called.parent / "muted"
    muted.touch()
    toy = Toy(mute=("u0 i1", "u3 i2"), muted=str(muted), calls=str(called))
    config = make_config()
    first = run(config, pairs(*GOOD, *BROKEN), load=toy)
    output = output_of(config)
    assert first.metrics["failed_by_reason"] == {
        "empty_text": 2,
        "prompt_too_long": 2,
        "unknown_user": 1,
        "unknown_item": 1,
    }
    before = _times(output)

    muted.unlink()
    for path in called.iterdir():
        path.unlink()
    second = run(make_config(retry_failed="empty_text"), pairs(*GOOD, *BROKEN), load=toy)
    assert sorted(calls(called)) == ["u0 i1", "u3 i2"]
    assert second.metrics["generation"] == 2
    assert second.metrics["failed_by_reason"] == {
        "prompt_too_long": 2,
        "unknown_user": 1,
        "unknown_item": 1,
    }
    assert second.run == first.run
    assert second.fingerprint != first.fingerprint
    assert pairs_of(rows_by_manifest(output)) == sorted(GOOD)
    assert pairs_of(rows_by_manifest(output, failed=True)) == sorted(BROKEN)
    after = _times(output)
    # The files of the first generation stay, for those who still read them.
    kept = before.keys() - {"manifest.json", "_SUCCESS", "report.json", "report.html"}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}

    # The rows that are left fail again, because their pairs cannot be explained.
    third = run(make_config(retry_failed="all"), pairs(*GOOD, *BROKEN), load=toy)
    assert third.metrics["failed_by_reason"] == second.metrics["failed_by_reason"]
    assert third.metrics["generation"] == 3


@pytest.mark.usefixtures("actors_here")
def test_run_retry_heals_a_run_that_was_over_the_threshold(
    make_config: MakeConfig, pairs: Callable[..., pa.Table], called: Path
) -> None:
    muted = called.parent / "muted"
    muted.touch()
    toy = Toy(mute=GOOD[:6], muted=str(muted))
    with pytest.raises(DataError, match="empty_text"):
        run(make_config(max_failed_share=0.1), pairs(*GOOD), load=toy)
    muted.unlink()
    manifest = run(make_config(max_failed_share=0.1, retry_failed="all"), pairs(*GOOD), load=toy)
    assert manifest.row_counts == {"explanations": len(GOOD), "failed": 0}
    assert pairs_of(rows_by_manifest(output_of(make_config()))) == sorted(GOOD)


@pytest.mark.usefixtures("ray_cluster")
def test_run_retry_that_was_interrupted_goes_on(
    make_config: MakeConfig, pairs: Callable[..., pa.Table], called: Path
) -> None:
    """A retry's driver died; the next one does only the chunks that the first did not commit."""
    muted = called.parent / "muted"
    muted.touch()
    toy = Toy(mute=GOOD, muted=str(muted), calls=str(called))
    config = make_config(rows_per_chunk=2)
    run(config, pairs(*GOOD), load=toy)
    muted.unlink()
    run(make_config(rows_per_chunk=2, retry_failed="all"), pairs(*GOOD), load=toy)
    output = output_of(config)
    whole = rows_by_manifest(output)
    retried = sorted(committed_chunks(output / "generations" / "00002"))
    assert len(retried) > 1
    (output / "generations" / "00002" / "commits" / f"{retried[0]:05d}.json").delete()
    for path in called.iterdir():
        path.unlink()
    manifest = run(make_config(rows_per_chunk=2, retry_failed="all"), pairs(*GOOD), load=toy)
    assert 0 < len(calls(called)) < len(GOOD)
    assert manifest.metrics["generation"] == 2
    assert rows_by_manifest(output) == whole
    # Nothing was explained in the first run, so all files of explanations are those of the retry.
    assert {name for name in output.files() if name.startswith("part-")} == set(manifest.files)
