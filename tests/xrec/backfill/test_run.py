"""Whole runs: failures, limits, budgets and retries, carried texts, and audits."""

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.errors import raises
from tests.world.program import xrec
from tests.world.shop import write_project
from tests.world.town import make_dataset
from tests.world.workspace import save_graph
from tests.xrec.backfill.runs import (
    OTHER_DECODING,
    Runs,
    never,
    output_of,
    pairs_of,
    published_rows,
)
from xrec.backfill.driver import finish, has_work, run_backfill
from xrec.backfill.plan import open_backfill
from xrec.backfill.task import load_task_explainer
from xrec.bulk import read_published, read_takedowns
from xrec.errors import ArtifactNotFoundError, BudgetError, ConfigError, DataError
from xrec.graph.artifact import read_graph
from xrec.storage import open_location

BROKEN = ("nobody i0", "u1 nothing", "u2 wordy", "u3 wordy")
GOOD = tuple(f"u{user} i{item}" for user in range(4) for item in range(3))


@pytest.mark.parametrize("place", ["here", pytest.param("ray", marks=pytest.mark.slow)])
def test_run_of_good_and_broken_pairs_has_each_once_with_its_reason(runs, request, place):
    """It runs in this process and on disk, and in Ray's actors on an object store."""
    values: dict[str, Any] = {"actors": {"num_processes": 1, "device": "cpu"}}
    if place == "ray":
        request.getfixturevalue("ray_cluster")
        store = request.getfixturevalue("s3")
        values |= {"storage": store.storage, "explanations": f"{store.new_bucket()}/out"}
    else:
        request.getfixturevalue("actors_here")
    toy = runs.toy(broken=("u3 i2",))
    manifest = runs.run(*GOOD, *BROKEN, *GOOD[:2], toy=toy, **values)
    location = output_of(runs.config(**values))
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
    assert manifest == read_published(location, "explanations")


@pytest.mark.usefixtures("actors_here")
def test_published_run_has_no_work_and_reads_no_pairs(runs, monkeypatch):
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
    with pytest.raises(DataError):
        runs.run(*GOOD, toy=toy, **strict)
    with pytest.raises(DataError):
        finish(runs.config(*GOOD, **strict), runs.plan(*GOOD))
    runs.heal()
    assert runs.run(*GOOD, toy=toy, **strict, retry_failed="all").metrics["num_retries"] == 1


@pytest.mark.usefixtures("actors_here")
def test_limit_and_budget_end_a_run_and_larger_ones_continue_it(runs):
    assert runs.run(*GOOD, limit=4) is None
    assert 4 <= len(runs.calls()) < len(GOOD)
    assert not has_work(runs.config(limit=4), runs.plan(*GOOD))
    with pytest.raises(BudgetError) as it:
        runs.run(*GOOD, budget={"tokens": 1})
    assert it.value.metrics["costs"]["num_generated_tokens"] > 0
    with raises(BudgetError, "budget_used_up", "budget.seconds"):
        runs.run(*GOOD, budget={"seconds": 1e-9})
    budget = {"tokens": 1e6, "seconds": 3600, "gpu_hours": 1, "money": 1e6}
    manifest = runs.run(*GOOD, budget=budget, prices={"million_reply_tokens": 1e6})
    assert manifest.row_counts["explanations"] == len(GOOD)
    assert manifest.metrics["money"] == manifest.metrics["costs"]["num_generated_tokens"]


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"limit": 5, "retry_failed": "all"}, "(top level)"),
        ({"budget": {"money": 3}, "prices": {"gpu_hour": 0}}, "(top level)"),
    ],
)
def test_invalid_limit_or_budget_is_refused(runs, values, key):
    with pytest.raises(ConfigError) as caught:
        runs.config(**values)
    assert caught.value.key.startswith(key)


@pytest.mark.usefixtures("actors_here")
def test_rows_that_take_too_long_fail_and_a_retry_can_allow_more_time(runs):
    real = load_task_explainer
    manifest = runs.run(*GOOD, toy=real, engine={"kind": "builtin", "row_seconds": 1e-9})
    assert manifest.metrics["failed_by_reason"]["timeout"] > len(GOOD) / 2
    again = runs.run(*GOOD, toy=real, engine={"kind": "builtin"}, retry_failed="timeout")
    assert "timeout" not in again.metrics["failed_by_reason"]


@pytest.mark.usefixtures("actors_here")
def test_publishing_deletes_files_that_no_version_of_the_last_hours_needs(runs):
    runs.run(*GOOD[:3])
    before = published_rows(runs.output)
    stray = Path(runs.output.path) / "part-of-a-publisher-that-died.parquet"
    stray.write_bytes(b"")
    two_hours_ago = time.time() - 7200
    os.utime(stray, (two_hours_ago, two_hours_ago))
    runs.run(*GOOD, vacuum_hours=1)
    assert not stray.exists()
    assert published_rows(runs.output, version=0) == before


FIRST = tuple(f"u{user} i{item}" for user in range(12) for item in range(3))
SIX = FIRST[:6]


def _later(runs: Runs, table: str, row: int, **texts: str) -> dict[str, str]:
    """Write a dataset with other texts in a row of `table`, and a graph of the same vectors."""
    rows = {
        file.stem: [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        for file in (runs.workspace / "raw").glob("*.jsonl")
    }
    rows[table][row] |= texts
    earlier = read_graph(open_location(str(runs.workspace / "graph")))
    dataset = make_dataset(runs.folder, extends=runs.workspace / "dataset", **rows)
    vectors = earlier.users, earlier.items
    save_graph(runs.folder / "graph", *vectors, dataset, start_from=[earlier.manifest.fingerprint])
    return {name: str(runs.folder / name) for name in ("dataset", "graph")}


@pytest.mark.usefixtures("actors_here")
def test_carry_generates_texts_only_for_new_pairs_and_changed_profiles(runs):
    runs.run(*FIRST, rows_per_chunk=8)
    runs.calls()
    new = ("u0 i3", "u5 i4")
    manifest = runs.run(
        *(*FIRST[:-1], *new, "nobody i0"),
        toy=runs.toy(says="made later"),
        rows_per_chunk=8,
        **_later(runs, "users", 7, profile="Now a poet."),
    )
    made = sorted(["u7 i0", "u7 i1", "u7 i2", *new])
    assert runs.calls() == made
    rows = published_rows(runs.output)
    assert pairs_of(rows) == sorted({*FIRST[:-1], *new})
    assert pairs_of([row for row in rows if row["explanation"].startswith("made later")]) == made
    assert manifest.metrics["num_carried"] == len(rows) - len(made)
    assert manifest.row_counts == {"explanations": len(rows), "failed": 1, "rejected": 0}


@pytest.mark.usefixtures("actors_here")
def test_carry_drops_texts_that_name_an_item_new_in_the_catalog(runs):
    toy = runs.toy(says="With Blue Heron there is tea,")
    runs.run(*SIX, toy=toy)
    assert pairs_of(published_rows(runs.output)) == sorted(SIX)
    runs.calls()
    renamed = _later(runs, "items", -1, title="Blue Heron")
    manifest = runs.run(*SIX, toy=toy, **renamed)
    assert (manifest.metrics["num_carried"], runs.calls()) == (0, sorted(SIX))
    failed = published_rows(runs.output, failed=True)
    assert {row["reason"] for row in failed} == {"names_another_item"}
    assert pairs_of(failed) == sorted(SIX)


@pytest.mark.usefixtures("actors_here")
def test_carry_from_another_output_takes_its_rows_and_refuses_an_empty_one(runs):
    runs.run(*SIX)
    runs.calls()
    second = {"explanations": str(runs.folder / "second")}
    with pytest.raises(ArtifactNotFoundError):
        runs.run(*SIX, toy=never, carry_from=str(runs.folder / "nowhere"), **second)
    assert output_of(runs.config(**second)).files() == []
    manifest = runs.run(*SIX[:4], carry_from=runs.output.uri, **second)
    assert (manifest.metrics["num_carried"], runs.calls()) == (4, [])


EIGHT = tuple(f"u{user} i{item}" for user in range(4) for item in range(2))
OF_U1 = ["u1 i0", "u1 i1"]


@pytest.mark.usefixtures("actors_here")
def test_audit_finds_texts_with_newly_listed_words_and_takes_their_pairs_down(runs, tmp_path):
    runs.run(*EIGHT)
    words = tmp_path / "words.txt"
    words.write_text("# rude\nu1\n")
    path = write_project(tmp_path / "project.yaml", runs.config(*EIGHT))
    command = ["audit", path, f"decoding.text.checks.unsafe_words={words}"]
    code, out, err = xrec(*command)
    lines = out.splitlines()
    assert code == 0, err
    assert [line.split("  ")[:2] for line in lines[:-1]] == [pair.split() for pair in OF_U1]
    assert all("unsafe: 'u1' is on the list" in line for line in lines[:-1])
    assert lines[-1].endswith("2 of 8 texts would be refused today; 2 unsafe")
    assert pairs_of(published_rows(runs.output)) == sorted(EIGHT)
    for _ in range(2):  # the second audit finds nothing
        code, out, err = xrec(*command, "--takedown")
        assert code == 0, err
    assert "0 of 6 texts would be refused today\n" in out
    left = sorted({*EIGHT} - {*OF_U1})
    assert pairs_of(published_rows(runs.output)) == left
    (entry,) = read_takedowns(runs.output).active.values()
    assert (len(entry.rows), entry.reason) == (2, "audit: unsafe")
    runs.run(*EIGHT, decoding=OTHER_DECODING)  # every text is written again
    assert pairs_of(published_rows(runs.output)) == left
