"""Whole runs: typed failures, the threshold, retries, interruptions, second starts.

The rows are compared with the set of pairs that went in.
"""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.backfill import output
from tests.xrec.backfill.runs import (
    output_of,
    pairs_of,
    plan,
    published_rows,
    run,
    with_pairs,
)
from tests.xrec.backfill.toy_engines import Toy, calls
from xrec.backfill import has_work, open_backfill, pair_batches, run_backfill
from xrec.backfill.progress import ProgressLine
from xrec.backfill.task import MakeExplainTask
from xrec.bulk import RunState
from xrec.config.backfill import BackfillConfig
from xrec.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    DataError,
    LeaseError,
    LostTableError,
)
from xrec.generate.explainer import Explainer
from xrec.storage import open_location, parquet_bytes, read_manifest

MakeConfig = Callable[..., Any]
MakePairs = Callable[..., pa.Table]
BROKEN = ("nobody i0", "u1 nothing", "u2 wordy", "u3 wordy")
GOOD = tuple(f"u{user} i{item}" for user in range(4) for item in range(3))


@pytest.fixture
def on_s3(make_config: MakeConfig, pairs: MakePairs, s3: Any) -> Callable[..., Any]:
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


def _never(made: MakeExplainTask) -> Explainer:
    raise AssertionError(f"an actor was started for {made.sources.dataset}")


@pytest.mark.usefixtures("ray_cluster")
def test_run_of_good_and_broken_rows_has_each_once_with_its_reason(
    on_s3: Callable[..., Any],
) -> None:
    config = on_s3()
    manifest = run(config, load=Toy())
    output = output_of(config)
    explained, failed = published_rows(output), published_rows(output, failed=True)
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
    assert manifest.row_counts == {
        "explanations": len(GOOD),
        "failed": len(BROKEN),
        "rejected": 0,
    }
    assert manifest.files == {}
    report = json.loads((output / "report.json").read_bytes())
    assert report["num_explained"] == len(GOOD)


@pytest.mark.usefixtures("actors_here")
def test_run_over_max_failed_share_stops_with_a_summary_and_raising_it_goes_on_from_there(
    on_s3: Callable[..., Any],
) -> None:
    strict = on_s3(max_failed_share=0.1)  # one of 16 rows may fail
    output = output_of(strict)
    with pytest.raises(
        DataError, match=r"[2-4] of 16 rows failed \(.* 1.*\), more than max_failed_share = 0\.1"
    ):
        run(strict, load=Toy())
    with pytest.raises(ArtifactNotFoundError):
        read_manifest(output, "explanations")
    committed = open_backfill(strict).table.snapshot().rows
    assert 0 < committed < 16

    run(on_s3(max_failed_share=1.0), load=Toy(says="explained later"))
    rows = published_rows(output)
    assert sorted(pairs_of(rows) + pairs_of(published_rows(output, failed=True))) == sorted(
        {*GOOD, *BROKEN}
    )
    later = sum(row["explanation"].startswith("explained later") for row in rows)
    assert 0 < later < len(rows)


@pytest.mark.usefixtures("actors_here")
def test_run_that_is_finished_has_no_work_and_reads_no_pairs(
    make_config: MakeConfig, pairs: MakePairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    first = run(config, pairs(*GOOD, *BROKEN), load=Toy())

    def read(*arguments: object) -> None:
        raise AssertionError("pairs were read")

    monkeypatch.setattr("xrec.backfill.plan.pair_batches", read)
    again = plan(config, pairs(*GOOD, *BROKEN))
    assert not has_work(config, again)
    before = again.table.newest_version()
    assert run(config, pairs(*GOOD, *BROKEN), load=_never) == first
    assert again.table.newest_version() == before
    assert has_work(make_config(retry_failed="unknown_user"), again)
    assert not has_work(make_config(retry_failed="empty_text"), again)


@pytest.mark.usefixtures("actors_here")
def test_run_whose_pairs_were_written_again_goes_on_if_they_are_the_same(
    make_config: MakeConfig, pairs: MakePairs, tmp_path: Path
) -> None:
    file = tmp_path / "pairs.parquet"
    config = make_config(pairs={"kind": "table", "uri": str(file)})
    pq.write_table(pairs(*GOOD), file)
    first = run(config, load=Toy())
    pq.write_table(pairs(*reversed(GOOD), GOOD[0]), file)
    assert run(config, load=_never) == first
    pq.write_table(pairs(*GOOD[1:]), file)
    with pytest.raises(ArtifactMismatchError, match=r"rows of the input changed .* 12 .* 11 here"):
        run(config, load=_never)


@pytest.mark.usefixtures("actors_here")
def test_run_of_top_k_does_not_rank_again(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(pairs={"kind": "top_k", "k": 2})
    ranked = {
        (row["user_id"], row["item_id"])
        for good, _ in pair_batches(config)
        for row in good.to_pylist()
    }
    made = open_backfill(config)

    def rank(*arguments: object) -> None:
        raise AssertionError("the pairs were ranked again")

    monkeypatch.setattr("xrec.backfill.pairs.top_k_items", rank)
    assert open_backfill(config).plan.record == made.plan.record
    run_backfill(config, open_backfill(config), Toy())
    rows = published_rows(output_of(config)) + published_rows(output_of(config), failed=True)
    assert {(row["user_id"], row["item_id"]) for row in rows} == ranked


@pytest.mark.usefixtures("actors_here")
def test_run_whose_table_was_taken_over_stops(
    make_config: MakeConfig, pairs: MakePairs, tmp_path: Path
) -> None:
    made = plan(make_config(), pairs(*GOOD))

    class TakenOver(Toy):
        def __call__(self, settings: MakeExplainTask) -> Explainer:
            made.table.take_over("another driver")
            return super().__call__(settings)

    with pytest.raises(LostTableError, match="another driver"):
        run_backfill(make_config(), made, TakenOver())
    assert not (made.plan.output / "manifest.json").exists()


@pytest.mark.usefixtures("actors_here")
def test_run_that_is_interrupted_says_how_to_go_on_and_lets_the_next_driver_begin_at_once(
    make_config: MakeConfig,
    pairs: MakePairs,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def interrupted(line: ProgressLine, state: RunState) -> None:
        if state.num_rows:
            raise KeyboardInterrupt

    config = make_config(rows_per_chunk=2)
    with monkeypatch.context() as patched:
        patched.setattr("xrec.bulk.ledger.COMMIT_SECONDS", 0.0)
        patched.setattr(ProgressLine, "show", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(config, pairs(*GOOD), load=Toy())
    (message,) = [
        record.getMessage() for record in caplog.records if "stopped" in record.getMessage()
    ]
    assert re.fullmatch(
        r"stopped: [1-9]\d* of 12 pairs are committed; "
        r"run the same command again to go on with the others",
        message,
    )
    run(config, pairs(*GOOD), load=Toy())
    assert pairs_of(published_rows(output_of(config))) == sorted(GOOD)


@pytest.mark.usefixtures("actors_here")
def test_run_of_a_driver_that_may_be_alive_is_refused_unless_it_is_to_be_taken_over(
    make_config: MakeConfig, pairs: MakePairs
) -> None:
    config = make_config()
    made = plan(config, pairs(*GOOD))

    class Crash(BaseException):
        pass

    class Crashing(Toy):
        def __call__(self, settings: MakeExplainTask) -> Explainer:
            raise Crash

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("xrec.bulk.driver._Driver.leave", lambda driver: None)  # as if killed
        with pytest.raises(Crash):
            run_backfill(config, made, Crashing())
    with pytest.raises(LeaseError, match="taken for alive"):
        run(config, pairs(*GOOD), load=Toy())
    run(make_config(take_over=True), pairs(*GOOD), load=Toy())
    assert pairs_of(published_rows(output_of(config))) == sorted(GOOD)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_run_with_rows_that_kill_their_process_fails_them_and_explains_the_others(
    make_config: MakeConfig, pairs: MakePairs, called: Path
) -> None:
    config = make_config(rows_per_chunk=100, actors={"num_actors": 1, "device": "cpu"})
    manifest = run(
        config, pairs(*GOOD[:5], "nobody i0"), load=Toy(deadly=("u1 i1",), calls=str(called))
    )
    output = output_of(config)
    assert pairs_of(published_rows(output)) == sorted(set(GOOD[:5]) - {"u1 i1"})
    failed = {
        f"{row['user_id']} {row['item_id']}": row for row in published_rows(output, failed=True)
    }
    assert {pair: row["reason"] for pair, row in failed.items()} == {
        "u1 i1": "engine_error",
        "nobody i0": "unknown_user",
    }
    assert "2 processes died while they worked on this row alone" in failed["u1 i1"]["message"]
    assert failed["u1 i1"]["item_title"] == "Place 1"
    assert manifest.row_counts == {"explanations": 4, "failed": 2, "rejected": 0}
    # The chunk is tried twice, then its halves: a death costs the work on one range, and no range
    # that is done is done again.
    counts = Counter(calls(called))
    assert 4 <= counts["u1 i1"] <= 6
    assert max(count for pair, count in counts.items() if pair != "u1 i1") < counts["u1 i1"]


@pytest.mark.usefixtures("actors_here")
def test_run_with_a_row_that_the_engine_cannot_do_fails_that_row_alone(
    make_config: MakeConfig, pairs: MakePairs
) -> None:
    config = make_config()
    run(config, pairs(*GOOD), load=Toy(broken=("u1 i1",)))
    (failed,) = published_rows(output_of(config), failed=True)
    assert (failed["user_id"], failed["item_id"], failed["reason"]) == ("u1", "i1", "engine_error")
    assert failed["message"] == "RuntimeError: the kernel has no image for this device"
    assert pairs_of(published_rows(output_of(config))) == sorted(set(GOOD) - {"u1 i1"})


@pytest.mark.usefixtures("actors_here")
def test_run_retry_of_one_reason_supersedes_only_those_rows(
    make_config: MakeConfig, pairs: MakePairs, called: Path, muted: Path
) -> None:
    toy = Toy(mute=("u0 i1", "u3 i2"), muted=str(muted), calls=str(called))
    config = make_config()
    first = run(config, pairs(*GOOD, *BROKEN), load=toy)
    output = output_of(config)
    broken = {"prompt_too_long": 2, "unknown_user": 1, "unknown_item": 1}
    assert first.metrics["failed_by_reason"] == {"empty_text": 2, **broken}
    before = published_rows(output)

    muted.unlink()
    for path in called.iterdir():
        path.unlink()
    second = run(make_config(retry_failed="empty_text"), pairs(*GOOD, *BROKEN), load=toy)
    assert sorted(calls(called)) == ["u0 i1", "u3 i2"]
    assert second.metrics["failed_by_reason"] == broken
    assert second.run == first.run
    assert second.fingerprint != first.fingerprint
    after = published_rows(output)
    assert pairs_of(after) == sorted(GOOD)
    assert all(row in after for row in before)
    assert pairs_of(published_rows(output, failed=True)) == sorted(BROKEN)

    # The rows that are left fail again, because their pairs cannot be explained.
    third = run(make_config(retry_failed="all"), pairs(*GOOD, *BROKEN), load=toy)
    assert third.metrics["failed_by_reason"] == broken
    assert third.metrics["num_retries"] == 2


@pytest.mark.usefixtures("actors_here")
def test_run_retry_heals_a_run_that_was_over_the_threshold(
    make_config: MakeConfig, pairs: MakePairs, muted: Path
) -> None:
    toy = Toy(mute=GOOD[:6], muted=str(muted))
    with pytest.raises(DataError, match="empty_text"):
        run(make_config(max_failed_share=0.1), pairs(*GOOD), load=toy)
    muted.unlink()
    manifest = run(make_config(max_failed_share=0.1, retry_failed="all"), pairs(*GOOD), load=toy)
    assert manifest.row_counts == {"explanations": len(GOOD), "failed": 0, "rejected": 0}
    assert pairs_of(published_rows(output_of(make_config()))) == sorted(GOOD)


@pytest.mark.usefixtures("actors_here")
def test_run_exports_its_explanations_and_replaces_them_after_a_retry(
    make_config: MakeConfig, pairs: MakePairs, tmp_path: Path, muted: Path
) -> None:
    folder = tmp_path / "files"
    toy = Toy(mute=GOOD[:2], muted=str(muted))
    config = with_pairs(make_config(export=str(folder), max_failed_share=1.0), pairs(*GOOD))
    for retry, num_rows in ((None, len(GOOD) - 2), (("all",), len(GOOD))):
        manifest = run(config.model_copy(update={"retry_failed": retry}), load=toy)
        assert json.loads((folder / "_SUCCESS").read_text())["version"] == manifest.version
        rows = pq.read_table(folder).sort_by([("user_id", "ascending"), ("item_id", "ascending")])
        there = published_rows(output_of(config))
        assert len(there) == rows.num_rows == num_rows
        assert rows["explanation"].to_pylist() == [row["explanation"] for row in there]
        muted.unlink(missing_ok=True)
    assert output(config, exact=False).found().state == "same"
    (folder / "_SUCCESS").unlink()
    assert output(config, exact=False).found().state == "begun"  # so that `xrec run` runs the job
    assert output(without_export(config), exact=False).found().state == "same"


def without_export(config: BackfillConfig) -> BackfillConfig:
    """The config of the same run without plain files."""
    return config.model_copy(update={"export": None})
