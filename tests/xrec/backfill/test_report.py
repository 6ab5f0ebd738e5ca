"""The report's figures against figures worked out by hand, and a page without users' markup."""

import html.parser
import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.xrec.bulk.toy_run import PoolHere, TaskOf, plan_of
from xrec import bulk
from xrec.backfill import EXPLANATIONS
from xrec.backfill.driver import describe
from xrec.backfill.report import REPORT, is_report_of, summarize, write_report
from xrec.schemas import FAILED, GENERATED
from xrec.storage import Manifest, make_manifest, open_location

COSTS = {
    "seconds": 80.0,
    "carried": 20,
    "num_prompt_tokens": 10_500,
    "num_generated_tokens": 1260,
    "engine_prompt_tokens": 600,
    "engine_computed_prompt_tokens": 450,
}
EVIL = "<script>alert(1)</script> & more"
SCHEMAS = {True: GENERATED, False: FAILED}


def plan(folder: Path, *users: str) -> bulk.BulkRun:
    """Plan a run of these users with an item, and of a row without a user."""
    table = pa.table({"user_id": [*users, None], "item_id": ["i1"] * (len(users) + 1)})
    return plan_of(str(folder / "out"), "explanations", EXPLANATIONS, table)


def manifest_of(folder: Path, **counts: Any) -> Manifest:
    """The manifest that a run with these counts would publish."""
    summary = bulk.Summary(**counts)
    row_counts, metrics = describe(plan(folder, "u1"))(summary)
    made = {"row_counts": row_counts, "metrics": {**metrics, "costs": dict(summary.costs)}}
    return make_manifest("explanations", config={}, inputs={}, **made)


def test_summary_is_that_of_the_totals(tmp_path: Path) -> None:
    failed = {"unknown_user": 1, "empty_text": 4}
    manifest = manifest_of(tmp_path, num_ok=105, failed=failed, costs=COSTS, num_deaths=3)
    report = summarize(manifest)
    assert (report["num_explained"], report["num_carried"], report["num_failed"]) == (105, 20, 5)
    assert (report["num_rejected"], report["num_deaths"], report["num_retries"]) == (1, 3, 0)
    assert report["failed_by_reason"] == failed
    assert report["num_generated"] == 90
    assert (report["num_prompt_tokens"], report["num_generated_tokens"]) == (10_500, 1260)
    assert report["prefix_hit_share"] == 0.25
    assert report["actor_seconds"] == 80.0
    assert report["pairs_per_actor_second"] == 90 / 80


def test_summary_does_not_make_up_what_is_not_known(tmp_path: Path) -> None:
    report = summarize(manifest_of(tmp_path, num_ok=3, costs={"seconds": 5.0}))
    assert report["prefix_hit_share"] is None
    assert summarize(manifest_of(tmp_path))["pairs_per_actor_second"] is None


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def explained_by_evil(rows: pa.Table) -> bulk.Outcome:
    """Explain user u1, and let all others fail, with markup in every text."""
    counts = ("item_reviews", "num_item_reviews", "user_reviews", "num_user_reviews")
    evidence = {"aspect": EVIL, **dict.fromkeys(counts, 2), "opinion": EVIL, "is_named": True}
    texts = {"explanation": EVIL, "num_prompt_tokens": 5, "num_generated_tokens": 29}
    hashes = {"model_fingerprint": "f", "content_key": "k", "finish_reason": "stop"}
    ok = {**texts, **hashes, "aspects": [evidence], "kind": "plain", "refused": "unsafe"}
    failed = dict.fromkeys(FAILED.names, "") | {"reason": "empty_text", "message": EVIL}
    made: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for pair in rows.to_pylist():
        is_ok = pair["user_id"] == "u1"
        made[is_ok].append({**(ok if is_ok else failed), **pair})
    tables = (pa.Table.from_pylist(made[is_ok], schema) for is_ok, schema in SCHEMAS.items())
    return bulk.Outcome(*tables, COSTS)


def test_report_is_written_with_rows_whose_texts_are_no_markup(tmp_path: Path) -> None:
    run = plan(tmp_path, "u1", "u2")
    manifest = bulk.complete(
        run, PoolHere(), lambda: TaskOf(explained_by_evil), "explanations", describe(run)
    )
    assert manifest is not None
    assert not is_report_of(run.output, manifest)
    write_report(run.output.uri)
    assert is_report_of(run.output, manifest)
    report = json.loads((run.output / REPORT).read_bytes())
    assert report["version"] == manifest.version == 0
    assert (report["num_explained"], report["num_rejected"]) == (1, 1)
    assert report["failed_by_reason"] == {"empty_text": 1}
    assert report["samples"][0]["explanation"] == EVIL
    assert set(report["failed_samples"][0]) == set(FAILED.names)
    page = _Page()
    page.feed((run.output / "_report/report.html").read_text())
    assert "script" not in page.tags
    assert page.text.count(EVIL) == 4
    assert "pairs_per_actor_second" in page.text


def test_report_of_another_content_or_half_written_is_none_of_this_manifest(tmp_path: Path) -> None:
    manifest, location = manifest_of(tmp_path), open_location(str(tmp_path / "out"))
    for written, is_of in (
        (b'{"fingerprint": "', False),
        (b'{"fingerprint": "0123456789abcdef"}', False),
        (b"[]", False),
        (json.dumps({"fingerprint": manifest.fingerprint}).encode(), True),
    ):
        (location / REPORT).write_bytes(written)
        assert is_report_of(location, manifest) is is_of
