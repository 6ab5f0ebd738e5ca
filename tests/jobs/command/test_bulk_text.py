"""What a reader and a program are told of a bulk run."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from jobs.command.bulk_text import (
    costs_text,
    preview_lines,
    status_lines,
    status_values,
)
from tests.xrec.bulk.test_status import NOON, status_of
from xrec.bulk import Preview, measured_rate
from xrec.bulk.plan import RowCounts
from xrec.progress import duration

RUNNING = {
    "num_ok": 1_850,
    "failed": {"dull": 10, "odd": 40},
    "num_rows_before": 1_000,
    "working_since": NOON + timedelta(seconds=40),
    "expires_at": NOON + timedelta(seconds=190),
    "costs": {"seconds": 7_200.0, "tokens": 12_345.0},
    "num_deaths": 2,
}


def test_status_lines_of_a_running_run_say_how_fast_it_is_and_how_long_it_takes() -> None:
    status = status_of(seconds=100, **RUNNING)
    assert status_lines(status, NOON + timedelta(seconds=112)) == [
        "memory: toy, running",
        "  rows      10,000 in 100 chunks: 1,850 ok, 50 failed, 8,100 left (19.0% done)",
        "  failed    odd 40, dull 10",
        "  driver    host-3; last commit 12 s ago, at 2026-11-26 12:01:40 UTC",
        "  rate      15 rows/s, 9 min left (rough: few chunks are done)",
        "  costs     2.0 h of actors, 12,345 tokens",
        "  deaths    2 processes died while they worked",
        "  version   7",
    ]


@pytest.mark.parametrize(
    ("seconds", "changes", "title", "rate"),
    [
        (200, {}, "its driver gives no sign of life: run it again", None),
        (112, {"expires_at": None}, "stopped before it was finished: run it again", None),
        (112, {"state": "finished", "expires_at": None}, "memory: toy, finished", None),
        (112, {"num_rows_before": 1_900}, "memory: toy, running", "not known before this driver"),
    ],
)
def test_status_lines_tell_how_a_run_ended(
    seconds: int, changes: dict[str, object], title: str, rate: str | None
) -> None:
    status = status_of(seconds=100, **{**RUNNING, **changes})
    lines = status_lines(status, NOON + timedelta(seconds=seconds))
    assert title in lines[0]
    rates = [line for line in lines if line.startswith("  rate")]
    assert [rate in line for line in rates if rate] == ([True] if rate else [])
    assert bool(rates) is bool(rate)


def test_status_lines_of_a_plan_alone() -> None:
    status = replace(status_of(), state=None)
    status = replace(status, plan=status.plan.model_copy(update={"num_rejected": 3}))
    assert status_lines(status) == [
        "memory: toy, planned, and not begun",
        "  rows      10,000 in 100 chunks",
        "  rejected  3 rows of the input, for their ids",
    ]


def test_status_lines_say_which_retry_is_under_way() -> None:
    retry = {"retry": 2, "retry_reasons": ("odd", "dull"), "is_retrying": True}
    status = status_of(num_ok=9_000, failed={"odd": 1_000}, expires_at=NOON, **retry)
    lines = status_lines(status, NOON - timedelta(seconds=1))
    assert "  retry     number 2, of odd, dull: under way" in lines
    assert not any(line.startswith("  rate") for line in lines)  # no rows are left


def test_status_values_are_json_with_the_same_numbers() -> None:
    status = status_of(seconds=100, **RUNNING)
    values = json.loads(json.dumps(status_values(status, NOON)))
    assert values["rows"] == {
        "planned": 10_000,
        "ok": 1_850,
        "failed": 50,
        "left": 8_100,
        "rejected": 0,
    }
    assert (values["phase"], values["rows_per_second"], values["seconds_left"]) == (
        "running",
        15.0,
        540.0,
    )
    assert values["committed_at"] == "2026-11-26T12:01:40+00:00"
    planned = status_values(replace(status, state=None), NOON)
    assert (planned["phase"], planned["rows"]["left"], planned["expires_at"]) == (
        "planned",
        10_000,
        None,
    )


def test_duration_and_costs_are_in_words_that_suit_their_size() -> None:
    assert [duration(seconds) for seconds in (0.4, 89, 91, 5_399, 5_401, 172_801)] == [
        "0 s",
        "89 s",
        "2 min",
        "90 min",
        "1.5 h",
        "2.0 days",
    ]
    assert costs_text({"tokens": 1_234.4}) == "1,234 tokens"
    shown = costs_text({"num_prompt_tokens": 7, "engine_prompt_tokens": 7, "carried": 0})
    assert shown == "7 prompt tokens"


def test_preview_lines_of_a_run_that_nobody_measured_propose_a_canary() -> None:
    counts = RowCounts(10_007, 10_000, 100, {"nan_id": 1, "float_id": 2}, "")
    preview = Preview(10_000, 100, counts.rejected, counts, None, None)
    assert preview_lines(preview, "pairs", num_actors=4, price_per_actor_hour=2.0) == [
        "10,000 pairs in 100 chunks; counted by reading all of them, and 7 duplicates dropped",
        "left out for their ids: float_id 2, nan_id 1",
        "what they cost is not known, because no run was measured: --limit 400 does the first ones "
        "of this run and measures it",
    ]
    small = replace(preview, num_rows=10, num_chunks=3, rejected={})
    assert "--limit 10 does" in preview_lines(small, "pairs", num_actors=4)[-1]


def test_preview_lines_after_a_canary_say_what_the_rest_takes() -> None:
    """1,000 of 10,000 pairs took 7,200 s, so the others take 18 h, and 9 h with two actors."""
    costs = {"seconds": 7_200.0, "tokens": 3_000.0}
    status = status_of(num_ok=990, failed={"odd": 10}, costs=costs)
    preview = Preview(10_000, 100, {}, None, status, measured_rate(status))
    assert preview_lines(preview, "pairs", num_actors=2, price_per_actor_hour=2.0) == [
        "10,000 pairs in 100 chunks; they are planned, so no pairs were read",
        "done: 990 ok, 10 failed (odd 10), for 2.0 h of actors, 3,000 tokens; left: 9,000",
        "to come: about 18.0 h of actors, 27,000 tokens; 9.0 h with 2 actors, besides their start, "
        "36.00 at the price of an actor's hour",
        "  by the rate of the pairs that are done",
    ]


def test_preview_lines_name_the_run_whose_rate_they_take() -> None:
    done = status_of(num_ok=1_000, costs={"seconds": 50.0, "carried": 500.0})
    preview = Preview(2_000, 20, {}, None, None, measured_rate(replace(done, uri="s3://b/other")))
    lines = preview_lines(preview, "pairs", num_actors=1)
    assert lines[-2:] == [
        "to come: about 3 min of actors; 3 min with 1 actor, besides their start",
        "  by the rate of 500 pairs of s3://b/other, if none is carried over",
    ]


def test_preview_lines_say_which_failed_rows_a_retry_does_again() -> None:
    failed = {"odd": 3, "dull": 1, "bad": 2}
    status = status_of(num_ok=9_994, failed=failed, costs={"seconds": 50.0}, state="finished")
    preview = Preview(10_000, 100, {}, None, status, measured_rate(status))
    lines = preview_lines(preview, "pairs", num_actors=1, retry=("dull", "odd"))
    assert lines[-1] == "to be done again: 4 failed pairs (odd 3, dull 1)"
    lines = preview_lines(preview, "pairs", num_actors=1, retry=("strange",))
    assert lines[-1] == "to be done again: 0 failed pairs"


def test_preview_lines_of_a_finished_run_reckon_nothing() -> None:
    status = status_of(num_ok=10_000, costs={"seconds": 50.0}, state="finished")
    preview = Preview(10_000, 100, {}, None, status, measured_rate(status))
    assert len(preview_lines(preview, "pairs", num_actors=1)) == 2
