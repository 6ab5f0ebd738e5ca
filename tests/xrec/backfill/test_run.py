"""Whole runs: typed failures, the threshold, retries, interruptions, second starts.

The rows are compared with the set of pairs that went in.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faulty_proxy import Faults, faulty_proxy
from tests.project_file import write_project
from tests.xrec.backfill.runs import (
    never,
    output_of,
    pairs_of,
    plan,
    published_rows,
    run,
    with_pairs,
)
from tests.xrec.backfill.toy_engines import Toy, calls
from xrec.backfill import has_work, open_backfill, pair_batches, run_backfill
from xrec.backfill.metrics import BackfillMetrics
from xrec.bulk import Progress, Survey
from xrec.errors import ArtifactNotFoundError, DataError
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
        return make_config(**{"storage": s3.storage, **uri, **values})

    return make


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
    expected = ("unknown_user", "unknown_item", "prompt_too_long", "prompt_too_long")
    assert reasons == dict(zip(BROKEN, expected, strict=True))
    assert manifest.metrics["failed_by_reason"] == dict(Counter(reasons.values()))
    assert manifest.row_counts == {
        "explanations": len(GOOD),
        "failed": len(BROKEN),
        "rejected": 0,
    }
    assert manifest == read_manifest(output, "explanations")
    report = json.loads((output / "_report/report.json").read_bytes())
    assert report["num_explained"] == len(GOOD)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_run_onto_a_store_that_is_slow_hangs_and_fails_in_bursts_is_whole(
    on_s3: Callable[..., Any], s3: Any
) -> None:
    faults = Faults(share=0.0, delay_seconds=0.02, stalls=0.03, stall_seconds=4.0, burst=8)
    with faulty_proxy(s3.endpoint_url, faults) as endpoint_url:
        limits = {"read_timeout_seconds": 1.0, "max_attempts": 12}
        storage = s3.storage.model_copy(update={"endpoint_url": endpoint_url, **limits})
        run(on_s3(storage=storage, rows_per_chunk=1), load=Toy())
    assert (faults.num_failed >= 8, faults.num_stalled >= 3) == (True, True)
    assert pairs_of(published_rows(output_of(on_s3()))) == sorted(GOOD)


@pytest.mark.usefixtures("actors_here")
def test_run_over_max_failed_share_publishes_nothing_and_raising_it_goes_on(
    on_s3: Callable[..., Any],
) -> None:
    strict = on_s3(max_failed_share=0.1)  # one of 16 rows may fail
    with pytest.raises(
        DataError, match=r"[2-4] of 16 rows failed \(.* 1.*\), more than max_failed_share = 0\.1"
    ):
        run(strict, load=Toy())
    with pytest.raises(ArtifactNotFoundError):
        read_manifest(output_of(strict), "explanations")
    run(on_s3(max_failed_share=1.0), load=Toy())
    rows = [row for bad in (False, True) for row in published_rows(output_of(strict), bad)]
    assert sorted(pairs_of(rows)) == sorted({*GOOD, *BROKEN})


@pytest.mark.usefixtures("actors_here")
def test_run_that_is_published_has_no_work_reads_no_pairs_and_writes_nothing(
    make_config: MakeConfig, pairs: MakePairs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = make_config(export=str(tmp_path / "files"))
    first = run(config, pairs(*GOOD, *BROKEN), load=Toy())

    def read(*arguments: object) -> None:
        raise AssertionError("pairs were read")

    def files() -> dict[str, int]:
        there = [path for path in tmp_path.rglob("*") if path.is_file()]
        return {str(path): path.stat().st_mtime_ns for path in there if path.name != "driver.json"}

    monkeypatch.setattr("xrec.backfill.plan.pair_batches", read)
    again = plan(config, pairs(*GOOD, *BROKEN))
    assert not has_work(config, again)
    before = files()
    assert run(config, pairs(*GOOD, *BROKEN), load=never) == first
    assert files() == before
    assert has_work(make_config(retry_failed="unknown_user"), again)
    assert not has_work(make_config(retry_failed="empty_text"), again)


@pytest.mark.usefixtures("actors_here")
def test_run_whose_pairs_were_written_again_is_the_same_only_if_they_are(
    make_config: MakeConfig, pairs: MakePairs, tmp_path: Path
) -> None:
    file = tmp_path / "pairs.parquet"
    config = make_config(pairs={"kind": "table", "uri": str(file)})
    pq.write_table(pairs(*GOOD), file)
    first = run(config, load=Toy())
    pq.write_table(pairs(*reversed(GOOD), GOOD[0]), file)
    assert run(config, load=never) == first
    pq.write_table(pairs(*GOOD[1:]), file)
    second = run(config, load=Toy())
    assert (second.version, second.metrics["num_carried"]) == (1, len(GOOD) - 1)
    assert pairs_of(published_rows(output_of(config))) == sorted(GOOD[1:])


@pytest.mark.usefixtures("actors_here")
def test_run_of_top_k_does_not_rank_again(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(pairs={"kind": "top_k", "k": 2})
    ranked = [pair for good, _ in pair_batches(config) for pair in pairs_of(good.to_pylist())]
    made = open_backfill(config)

    def rank(*arguments: object) -> None:
        raise AssertionError("the pairs were ranked again")

    monkeypatch.setattr("xrec.backfill.pairs.top_k_items", rank)
    assert open_backfill(config).record == made.record
    run_backfill(config, open_backfill(config), Toy())
    rows = published_rows(output_of(config)) + published_rows(output_of(config), failed=True)
    assert sorted(pairs_of(rows)) == sorted(ranked)


@pytest.mark.usefixtures("actors_here")
def test_run_that_is_interrupted_says_how_to_go_on_and_lets_the_next_driver_begin_at_once(
    make_config: MakeConfig,
    pairs: MakePairs,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    called: Path,
) -> None:
    def interrupted(metrics: BackfillMetrics, progress: Progress) -> None:
        raise KeyboardInterrupt

    config = make_config(rows_per_chunk=2)
    with monkeypatch.context() as patched:
        patched.setattr("xrec.bulk.driver._SECONDS_BETWEEN_LOOKS", 0.0)
        patched.setattr(BackfillMetrics, "record", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(config, pairs(*GOOD), load=Toy(calls=str(called)))
    done = calls(called)
    (said,) = [each.getMessage() for each in caplog.records if "stopped" in each.getMessage()]
    assert said == (
        f"stopped: {len(done)} of 12 rows are done; run the same command again to go on with the "
        "others"
    )
    run(config, pairs(*GOOD), load=Toy(calls=str(called)))
    assert calls(called) == sorted({*GOOD} - {*done})
    assert pairs_of(published_rows(output_of(config))) == sorted(GOOD)


@pytest.mark.slow
def test_run_in_a_process_that_gets_sigterm_ends_with_130_and_the_same_command_goes_on(
    make_config: MakeConfig, pairs: MakePairs, tmp_path: Path
) -> None:
    slow = {
        "rows_per_chunk": 1,
        "engine": {"max_rows": 1},
        "decoding": {"max_new_tokens": 200, "text": {"max_words": None}},
    }
    cluster = {"actors": {"num_actors": 1, "device": "cpu"}, "ray": {"num_cpus": 2}}
    config = with_pairs(make_config(**slow, **cluster), pairs(*GOOD))
    made = plan(config)
    project = write_project(tmp_path / "project.yaml", config)
    command = [sys.executable, "-m", "xrec.cli", "backfill", str(project)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 240
        while not Survey(made).summary.num_rows and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    (done,) = re.findall(r"stopped: (\d+) of 12 rows are done; run the same command again", said)
    assert 0 < int(done) < len(GOOD)
    assert said.rstrip().endswith("interrupted")
    assert not (output_of(config) / "_delta_log").exists()
    subprocess.run(command, check=True, timeout=300)
    rows = [row for bad in (False, True) for row in published_rows(output_of(config), bad)]
    assert sorted(pairs_of(rows)) == sorted(GOOD)


@pytest.mark.usefixtures("actors_here")
def test_run_with_a_row_that_the_engine_cannot_do_fails_that_row_alone(
    make_config: MakeConfig, pairs: MakePairs
) -> None:
    config = make_config()
    run(config, pairs(*GOOD), load=Toy(broken=("u1 i1",)))
    (failed,) = published_rows(output_of(config), failed=True)
    assert (failed["user_id"], failed["item_id"], failed["reason"]) == ("u1", "i1", "engine_error")
    assert failed["message"] == "RuntimeError: the kernel has no image for this device"
    assert failed["item_title"] == "Place 1"
    assert pairs_of(published_rows(output_of(config))) == sorted(set(GOOD) - {"u1 i1"})


@pytest.mark.usefixtures("actors_here")
def test_run_retry_of_one_reason_supersedes_only_those_rows(
    make_config: MakeConfig, pairs: MakePairs, called: Path, muted: Path
) -> None:
    toy = Toy(mute=("u0 i1", "u3 i2"), muted=str(muted), calls=str(called))
    config, given = make_config(), pairs(*GOOD, *BROKEN)
    first = run(config, given, load=toy)
    output = output_of(config)
    broken = {"prompt_too_long": 2, "unknown_user": 1, "unknown_item": 1}
    assert first.metrics["failed_by_reason"] == {"empty_text": 2, **broken}
    before = published_rows(output)

    muted.unlink()
    calls(called)
    second = run(make_config(retry_failed="empty_text"), given, load=toy)
    assert calls(called) == ["u0 i1", "u3 i2"]
    assert second.metrics["failed_by_reason"] == broken
    assert second.run == first.run
    assert second.fingerprint != first.fingerprint
    after = published_rows(output)
    assert pairs_of(after) == sorted(GOOD)
    assert all(row in after for row in before)
    assert pairs_of(published_rows(output, failed=True)) == sorted(BROKEN)

    # The rows that are left fail again, because their pairs cannot be explained.
    third = run(make_config(retry_failed="all"), given, load=toy)
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
