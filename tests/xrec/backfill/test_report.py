"""The report's figures against figures worked out by hand, and a page without users' markup."""

import html.parser
import json
from typing import Any

import pytest
from xrec.backfill.commit import Commit, EngineWork, Work
from xrec.backfill.generation import RUN
from xrec.backfill.snapshot import Record

from xrec.backfill.report import summarize, write_report
from xrec.schemas import FAILED, GENERATED
from xrec.storage import Location, write_table


def _commit(
    chunk: int,
    actor: str,
    start: float,
    seconds: float,
    rows: int,
    failed: int = 0,
    is_told: bool = True,
    **values: Any,
) -> Commit:
    work = Work(
        actor=actor,
        started_at=start,
        seconds=seconds,
        num_prompt_tokens=100 * rows,
        num_generated_tokens=12 * rows,
        generated_lengths={10: rows - 1, 20: 1},
        num_deaths=chunk % 2,
        engine=EngineWork(
            num_prompt_tokens=200,
            num_computed_prompt_tokens=150,
            num_key_cells=40,
            num_seen_keys=30,
        )
        if is_told
        else None,
    )
    reasons = {"empty_text": failed} if failed else {}
    return Commit(
        chunk=chunk,
        files={},
        num_rows=rows,
        num_failed=failed,
        failed_by_reason=reasons,
        work=work,
        **values,
    )


COMMITS = [
    _commit(0, "a:1", 1000.0, 10.0, rows=20),
    _commit(1, "a:1", 1010.0, 30.0, rows=25, failed=5),
    _commit(2, "b:2", 1000.0, 40.0, rows=60, num_carried=20),
]


def test_summary_is_the_sum_of_the_commits() -> None:
    report = summarize(COMMITS, price_per_actor_hour=9.0)
    assert report["num_generated"] == 20 + 30 + 40
    assert report["actor_seconds"] == 80.0
    assert report["tokens"] == {"prompt": 10_500, "generated": 1260}
    assert report["prefix_hit_share"] == 0.25
    assert report["attention_padding_share"] == 0.25
    assert report["num_deaths"] == 1
    assert report["generated_lengths"] == {"10": 102, "20": 3}
    assert report["cost_per_million_pairs"] == pytest.approx(80 / 3600 * 9.0 / 90 * 1e6)
    assert report["actors"] == [
        {"actor": "a:1", "chunks": 2, "pairs": 50, "seconds": 40.0, "pairs_per_second": 1.25},
        {"actor": "b:2", "chunks": 1, "pairs": 40, "seconds": 40.0, "pairs_per_second": 1.0},
    ]


def test_summary_timeline_holds_each_pair_once_where_it_was_done() -> None:
    timeline = summarize(COMMITS, None)["timeline"]
    assert timeline["bin_seconds"] == pytest.approx(1.0)
    assert timeline["pairs_per_second"]["a:1"] == pytest.approx([2.0] * 10 + [1.0] * 30)
    assert timeline["pairs_per_second"]["b:2"] == pytest.approx([1.0] * 40)


def test_summary_does_not_make_up_what_is_not_known() -> None:
    report = summarize([_commit(3, "a:1", 1040.0, 5.0, rows=3, is_told=False)], None)
    assert (
        report["prefix_hit_share"],
        report["attention_padding_share"],
        report["cost_per_million_pairs"],
    ) == (None, None, None)
    assert summarize([], 1.0)["pairs_per_actor_second"] is None


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_report_is_written_with_rows_whose_texts_are_no_markup(output: Location) -> None:
    evil = "<script>alert(1)</script> & more"
    row = {
        "user_id": "u1",
        "item_id": "i1",
        "explanation": evil,
        "num_prompt_tokens": 5,
        "num_generated_tokens": 9,
    }
    generated = {**row, "finish_reason": "stop", "model_fingerprint": "f", "content_key": "k"}
    failed = {
        "user_id": "u2",
        "item_id": "i2",
        "reason": "empty_text",
        "message": evil,
        "user_profile": "",
        "item_title": "",
        "item_profile": "",
    }
    files = {
        name: write_table(output / name, schema.empty_table().from_pylist([values], schema), schema)
        for name, values, schema in (
            ("part-00000-aa.parquet", generated, GENERATED),
            ("failed/part-00000-bb.parquet", failed, FAILED),
        )
    }
    commit = _commit(0, "a:1", 1000.0, 10.0, rows=1, failed=1).model_copy(update={"files": files})
    write_report(output, [Record(RUN, (commit,))], price_per_actor_hour=None)

    report = json.loads((output / "report.json").read_bytes())
    assert (report["num_explained"], report["num_failed"], report["failed_by_reason"]) == (
        1,
        1,
        {"empty_text": 1},
    )
    assert report["samples"][0]["explanation"] == evil
    page = _Page()
    page.feed((output / "report.html").read_text())
    assert "script" not in page.tags
    assert page.text.count(evil) == 2
    assert "not reported by the engine" not in page.text
    assert "price_per_actor_hour is not set" in page.text
    assert page.tags.count("svg") == 2
