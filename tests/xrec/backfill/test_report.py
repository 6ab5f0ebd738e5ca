"""The report's figures against figures worked out by hand, and a page without users' markup."""

import html.parser
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.xrec.table.conftest import Place, bucket, disk, place
from xrec.backfill import EXPLANATIONS
from xrec.backfill.report import is_report_of, summarize, timeline, write_report
from xrec.bulk import RunState
from xrec.schemas import FAILED, GENERATED
from xrec.table import Table, write_file

__all__ = ["bucket", "disk", "place"]

START = datetime(2026, 11, 26, tzinfo=UTC)
COSTS = {
    "seconds": 80.0,
    "carried": 20,
    "num_prompt_tokens": 10_500,
    "num_generated_tokens": 1260,
    "engine_prompt_tokens": 600,
    "engine_computed_prompt_tokens": 450,
    "engine_key_cells": 120,
    "engine_seen_keys": 90,
}


def _state(num_ok: int, **values: Any) -> RunState:
    return RunState(**{"num_ok": num_ok, "started_at": START, **values})


def test_summary_is_that_of_the_totals() -> None:
    failed = {"unknown_user": 1, "empty_text": 4}
    state = _state(105, failed=failed, costs=COSTS, num_deaths=3, retry=2)
    report = summarize(state, price_per_actor_hour=9.0)
    assert (report["num_explained"], report["num_carried"], report["num_failed"]) == (105, 20, 5)
    assert list(report["failed_by_reason"].items()) == [("empty_text", 4), ("unknown_user", 1)]
    assert report["num_generated"] == 90
    assert report["tokens"] == {"prompt": 10_500, "generated": 1260}
    assert report["prefix_hit_share"] == 0.25
    assert report["attention_padding_share"] == 0.25
    assert (report["num_deaths"], report["num_retries"]) == (3, 2)
    assert report["actor_seconds"] == 80.0
    assert report["pairs_per_actor_second"] == 90 / 80
    assert report["cost_per_million_pairs"] == pytest.approx(80 / 3600 * 9.0 / 90 * 1e6)


def test_summary_does_not_make_up_what_is_not_known() -> None:
    report = summarize(_state(3, costs={"seconds": 5.0}), None)
    assert (
        report["prefix_hit_share"],
        report["attention_padding_share"],
        report["cost_per_million_pairs"],
    ) == (None, None, None)
    assert summarize(_state(0), 1.0)["pairs_per_actor_second"] is None


def _after(seconds: float, num_ok: int, **values: Any) -> tuple[datetime, RunState]:
    return START + timedelta(seconds=seconds), _state(num_ok, **values)


def test_timeline_leaves_out_the_time_between_two_drivers() -> None:
    """The first driver does 2 a second for 20 s, the second one, an hour later, 5 for 10 s."""
    second = {"started_at": START + timedelta(hours=1), "num_rows_before": 40}
    moments = [
        _after(0, 0),
        _after(10, 20),
        _after(10, 20),
        _after(20, 40),
        _after(3600, 40, **second),
        _after(3605, 60, failed={"empty_text": 5}, **second),
        _after(3610, 85, failed={"empty_text": 5}, **second),
    ]
    assert timeline(moments) == [
        {"seconds": 10.0, "pairs_per_second": 2.0},
        {"seconds": 10.0, "pairs_per_second": 2.0},
        {"seconds": 5.0, "pairs_per_second": 5.0},
        {"seconds": 5.0, "pairs_per_second": 5.0},
    ]
    assert timeline(moments[:1]) == timeline([]) == []


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


EVIL = "<script>alert(1)</script> & more"


def _write_rows(table: Table) -> int:
    """Commit an explanation and a failed row, with markup in them; returns the version."""
    ids = {"user_id": "u1", "item_id": "i1"}
    texts = {"explanation": EVIL, "num_prompt_tokens": 5, "num_generated_tokens": 29}
    counts = ("item_reviews", "num_item_reviews", "user_reviews", "num_user_reviews")
    evidence = {"aspect": EVIL, **dict.fromkeys(counts, 2), "opinion": EVIL, "is_named": True}
    hashes = {"model_fingerprint": "f", "content_key": "k", "finish_reason": "stop"}
    ok = {**ids, **texts, **hashes, "aspects": [evidence], "kind": "plain", "refused": "unsafe"}
    failed = dict.fromkeys(FAILED.names, "") | {"reason": "empty_text", "message": EVIL}
    writer = table.take_over("test")
    for status, schema, row in (("ok", GENERATED, ok), ("failed", FAILED, failed)):
        rows = EXPLANATIONS.file_rows(schema.empty_table().from_pylist([row], schema), 0)
        partition = {"status": status}
        file = write_file(table.location, EXPLANATIONS.table, rows, name="a", partition=partition)
        failures = {"empty_text": 1} if status == "failed" else {}
        writer.commit([file], metadata=_state(1, failed=failures, costs=COSTS).metadata())
    return writer.version


def test_report_is_written_with_rows_whose_texts_are_no_markup(place: Place) -> None:
    table = Table.create(place.uri, EXPLANATIONS.table, run="r", storage=place.storage)
    version = _write_rows(table)
    state = _state(1, failed={"empty_text": 1}, costs=COSTS)
    write_report(table, version, state, num_rejected=7, price_per_actor_hour=None)

    report = json.loads((place.location / "report.json").read_bytes())
    assert report["version"] == version
    assert (report["num_explained"], report["num_failed"], report["failed_by_reason"]) == (
        1,
        1,
        {"empty_text": 1},
    )
    assert report["samples"][0]["explanation"] == EVIL
    assert set(report["failed_samples"][0]) == set(FAILED.names)
    assert report["generated_lengths"] == {"20": 1}
    assert len(report["timeline"]) == 1
    page = _Page()
    page.feed((place.location / "report.html").read_text())
    assert "script" not in page.tags
    assert page.text.count(EVIL) == 4
    assert "not reported by the engine" not in page.text
    assert "price_per_actor_hour is not set" in page.text
    assert page.tags.count("svg") == 2


def test_report_is_known_by_the_version_that_it_was_written_of_last(place: Place) -> None:
    assert not is_report_of(place.location, 3)
    (place.location / "report.json").write_bytes(b'{"version": 3')
    assert not is_report_of(place.location, 3)
    (place.location / "report.json").write_bytes(b'{"version": 3}')
    assert is_report_of(place.location, 3)
    assert not is_report_of(place.location, 4)
