"""What a reader and a program are told of a bulk run."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobs.backfill import costs_text, preview_lines
from xrec.bulk import Identity, Progress, Status
from xrec.bulk.runs.plan import PlanSize
from xrec.bulk.runs.run import RunRecord
from xrec.bulk.status import Preview
from xrec.cli.table_command import status_values
from xrec.progress import duration
from xrec.storage import make_manifest

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
PLANNED = RunRecord(
    run="0123456789abcdef",
    identity=Identity(kind="toy", config={}, inputs={}),
    nonce="fedcba9876543210",
    rows_fingerprint="",
    listing={},
    rejected={},
    num_buckets=16,
    size=PlanSize(num_rows=10_000, num_chunks=100, parts=(), digest=""),
)
RUNNING: dict[str, Any] = {
    "num_ok": 1_850,
    "failed": {"dull": 10, "odd": 40},
    "num_rows_before": 1_000,
    "working_since": NOON + timedelta(seconds=40),
    "expires_at": NOON + timedelta(seconds=190),
}
FAILED: dict[str, Any] = {"num_ok": 9_994, "failed": {"odd": 3, "dull": 1, "bad": 2}}


def status_of(**values: Any) -> Status:
    """A run that was begun at noon and said 100 seconds later how far it was."""
    times = {"started_at": NOON, "written_at": NOON + timedelta(seconds=100)}
    return Status("memory", PLANNED, Progress(**times, holder="host-3", **values), None, False)


def preview_of(status: Status | None, **values: Any) -> Preview:
    """Of a run of 10,000 rows that is planned if there is a status."""
    return replace(Preview(10_000, 100, {}, status, None, None), **values)


def test_status_values_of_a_running_run_say_how_fast_it_is_and_how_long_it_takes():
    values = json.loads(json.dumps(status_values(status_of(**RUNNING), NOON)))
    rows = {"planned": 10_000, "ok": 1_850, "failed": 50, "left": 8_100}
    rows |= {"rejected": 0, "taken_down": 0}
    assert (values["phase"], values["rows"], "note" in values) == ("running", rows, False)
    rate = (values["rows_per_second"], values["seconds_left"], values["time_left"])
    assert rate == (15.0, 540.0, "9 min")
    assert values["progress"]["written_at"] == "2026-11-26T12:01:40Z"
    silent = status_values(status_of(**RUNNING), NOON + timedelta(seconds=200))
    assert (silent["phase"], "run it again to go on" in silent["note"]) == ("silent", True)


def test_status_values_of_a_plan_beside_what_is_published():
    record = PLANNED.model_copy(update={"rejected": {"null_id": 1, "nan_id": 2}})
    manifest = make_manifest("explanations", config={}, inputs={}, version=7)
    values = status_values(Status("memory", record, None, manifest, False), NOON)
    assert (values["phase"], values["rows"]["left"]) == ("planned", 10_000)
    assert (values["rows"]["rejected"], values["time_left"]) == (3, None)
    assert values["published"].items() >= {"version": 7, "is_this_run": False}.items()


def test_duration_and_costs_are_in_words_that_suit_their_size():
    seconds = (0.4, 89, 91, 5_399, 5_401, 172_801)
    words = ["0 s", "89 s", "2 min", "90 min", "1.5 h", "2.0 days"]
    assert [duration(each) for each in seconds] == words
    assert costs_text({"tokens": 1_234.4}) == "1,234 tokens"
    shown = costs_text({"num_prompt_tokens": 7, "engine_prompt_tokens": 7, "carried": 0})
    assert shown == "7 prompt tokens"


def test_preview_lines_of_a_run_that_nobody_measured_propose_a_canary():
    preview = preview_of(None, rejected={"nan_id": 1, "float_id": 2})
    counts, rejected, canary = preview_lines(preview, num_actors=4)
    assert counts == "10,000 pairs in 100 chunks"
    assert rejected.endswith("float_id 2, nan_id 1")
    assert "limit=400 does" in canary
    small = replace(preview, num_rows=10, num_chunks=3, rejected={})
    assert "limit=10 does" in preview_lines(small, num_actors=4)[-1]


def test_preview_lines_after_a_canary_say_what_the_rest_takes():
    status = status_of(num_ok=990, failed={"odd": 10}, costs={"seconds": 7_200.0, "tokens": 3_000})
    preview = preview_of(status, costs_left={"seconds": 64_800.0, "tokens": 27_000.0})
    _, done, to_come, measured = preview_lines(preview, num_actors=2)
    assert done == (
        "done: 990 ok, 10 failed (odd 10); they took 2.0 h of actor time, 3,000 tokens; left: 9,000"
    )
    assert "about 18.0 h of actor time, 27,000 tokens; 9.0 h with 2 actors" in to_come
    assert "of this run" in measured
    elsewhere = preview_lines(replace(preview, measured_at="s3://b/other"), num_actors=2)[-1]
    assert "s3://b/other" in elsewhere


@pytest.mark.parametrize(
    ("is_published", "retry", "last"),
    [
        (False, (), "it is left to be published"),
        (True, (), "nothing is left to do"),
        (False, ("dull", "odd"), "to be done again: 4 failed pairs (odd 3, dull 1)"),
        (False, ("strange",), "to be done again: 0 failed pairs"),
    ],
)
def test_preview_lines_of_a_run_that_is_done_reckon_nothing(is_published, retry, last):
    status = replace(status_of(is_done=True, **FAILED), is_published=is_published)
    lines = preview_lines(preview_of(status), num_actors=1, retry=retry)
    assert (len(lines), lines[-1]) == (3, last)
