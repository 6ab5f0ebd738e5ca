"""Whole runs: typed failures, the threshold, limits, retries, and what follows a publish.

The rows are compared with the set of pairs that went in. What holds of any bulk run is tested in
tests/xrec/bulk.
"""

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.xrec.backfill.runs import never, output_of, pairs_of, published_rows
from xrec.backfill.driver import finish, has_work, run_backfill
from xrec.backfill.plan import open_backfill
from xrec.backfill.task import load_task_explainer
from xrec.bulk import rollback
from xrec.errors import BudgetError, ConfigError, DataError, GateError
from xrec.storage import read_manifest

BROKEN = ("nobody i0", "u1 nothing", "u2 wordy", "u3 wordy")
GOOD = tuple(f"u{user} i{item}" for user in range(4) for item in range(3))


@pytest.mark.usefixtures("ray_cluster")
def test_run_of_good_and_broken_rows_has_each_once_with_its_reason(runs, s3):
    on_s3 = {"storage": s3.storage, "explanations": f"{s3.new_bucket()}/out"}
    on_s3["actors"] = {"num_actors": 1, "device": "cpu"}  # each takes long to import torch
    toy = runs.toy(broken=("u3 i2",))
    manifest = runs.run(*GOOD, *BROKEN, *GOOD[:2], toy=toy, **on_s3)
    location = output_of(runs.config(**on_s3))
    explained, failed = published_rows(location), published_rows(location, failed=True)
    good = sorted({*GOOD} - {"u3 i2"})
    assert pairs_of(explained) == good
    assert [row["explanation"] for row in explained] == [f"explained {pair}" for pair in good]
    reasons = dict(zip(pairs_of(failed), (row["reason"] for row in failed), strict=True))
    expected = ("unknown_user", "unknown_item", *["prompt_too_long"] * 2, "engine_error")
    assert reasons == dict(zip((*BROKEN, "u3 i2"), expected, strict=True))
    (row,) = (row for row in failed if row["reason"] == "engine_error")
    assert row["message"] == "RuntimeError: the kernel has no image for this device"
    assert row["item_title"] == "Place 2"
    assert manifest.metrics["failed_by_reason"] == dict(Counter(reasons.values()))
    assert manifest.row_counts == {"explanations": 11, "failed": 5, "rejected": 0}
    assert manifest == read_manifest(location, "explanations")


@pytest.mark.usefixtures("actors_here")
def test_run_that_is_published_has_no_work_and_reads_no_pairs(runs, monkeypatch):
    config = runs.config(*GOOD, *BROKEN)
    first = run_backfill(config, open_backfill(config), runs.toy())
    monkeypatch.setattr("xrec.backfill.plan.pair_batches", None)
    again = open_backfill(config)
    assert not has_work(config, again)
    assert run_backfill(config, again, never) == finish(config, again) == first
    assert has_work(runs.config(retry_failed="unknown_user"), again)
    assert not has_work(runs.config(retry_failed="empty_text"), again)


@pytest.mark.usefixtures("actors_here")
def test_run_over_max_failed_share_is_refused_and_a_retry_is_counted(runs):
    toy, strict = runs.toy(mute=GOOD[:6]), {"max_failed_share": 0.1}
    message = r"empty_text.* more than max_failed_share = 0\.1"
    with pytest.raises(DataError, match=message):
        runs.run(*GOOD, toy=toy, **strict)
    with pytest.raises(DataError, match=message):
        finish(runs.config(*GOOD, **strict), runs.plan(*GOOD))
    runs.heal()
    assert runs.run(*GOOD, toy=toy, **strict, retry_failed="all").metrics["num_retries"] == 1


@pytest.mark.usefixtures("actors_here")
def test_limit_ends_a_run(runs):
    assert runs.run(*GOOD, limit=4) is None
    assert 4 <= len(runs.calls()) < len(GOOD)
    assert not has_work(runs.config(limit=4), runs.plan(*GOOD))
    with pytest.raises(ConfigError, match="limit: Input should be greater than or equal to 1"):
        runs.config(limit=0)
    with pytest.raises(ConfigError, match="limit = 5 and retry_failed: expected one of them"):
        runs.config(limit=5, retry_failed="all")


@pytest.mark.usefixtures("actors_here")
def test_budget_of_tokens_ends_a_run_which_goes_on_with_more(runs):
    with pytest.raises(
        BudgetError, match=r"budget\.tokens = 1 is used up .* of 12 rows are done"
    ) as it:
        runs.run(*GOOD, budget={"tokens": 1})
    assert it.value.metrics["costs"]["num_generated_tokens"] > 0
    assert 1 <= len(runs.calls()) < len(GOOD)
    budget = {"tokens": 1e6, "seconds": 3600, "gpu_hours": 1, "money": 1e6}
    manifest = runs.run(*GOOD, budget=budget, prices={"million_reply_tokens": 1e6})
    assert manifest.row_counts["explanations"] == len(GOOD)
    assert manifest.metrics["money"] == manifest.metrics["costs"]["num_generated_tokens"]
    for bad in ({"hours": 1}, {"tokens": 0}, 5, {"money": 3}):
        with pytest.raises(ConfigError, match="budget"):
            runs.config(budget=bad)
    with pytest.raises(ConfigError, match=r"money = 3 and prices {'gpu_hour': 0.0}: exp"):
        runs.config(budget={"money": 3}, prices={"gpu_hour": 0})


@pytest.mark.usefixtures("actors_here")
def test_rows_that_take_too_long_fail_with_their_reason_and_a_retry_may_give_them_time(runs):
    real = load_task_explainer
    manifest = runs.run(*GOOD, toy=real, engine={"kind": "builtin", "row_seconds": 1e-9})
    assert manifest.metrics["failed_by_reason"]["timeout"] > len(GOOD) / 2
    rows = published_rows(runs.output, failed=True)
    assert any("engine.row_seconds = 1e-09" in row["message"] for row in rows)
    assert has_work(runs.config(retry_failed="timeout"), runs.plan(*GOOD))
    mended = runs.run(*GOOD, toy=real, engine={"kind": "builtin"}, retry_failed="timeout")
    assert "timeout" not in mended.metrics["failed_by_reason"]
    assert sum(mended.row_counts.values()) == len(GOOD)


@pytest.mark.usefixtures("actors_here")
def test_publish_of_what_was_rolled_back_must_be_asked_for_and_upkeep_follows(runs):
    runs.run(*GOOD[:3])
    runs.run(*GOOD)
    rollback(runs.output.uri, 0)
    with pytest.raises(GateError, match=r"as version 1, .* took it back; .*--version 1$"):
        runs.run(*GOOD, toy=never)
    before = published_rows(runs.output)
    stray = Path(runs.output.path) / "part-of-a-publisher-that-died.parquet"
    stray.write_bytes(b"")
    two_hours_ago = time.time() - 7200
    os.utime(stray, (two_hours_ago, two_hours_ago))
    config = runs.config(*GOOD, vacuum_hours=1)
    finish(config, open_backfill(config), "they were right")
    assert not stray.exists()
    assert published_rows(runs.output, version=0) == before
    assert pairs_of(published_rows(runs.output)) == sorted(GOOD)
