"""The report of an evaluation, and its artifact."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.xrec.evaluate.conftest import make_config
from xrec.evaluate.evaluation import num_wrong, render_report, varied_pairs, write_evaluation
from xrec.evaluate.metrics import compute_metrics, flat_metrics
from xrec.evaluate.scores import SCORED_PAIRS
from xrec.storage import Manifest, open_location, read_table

HOSTILE = (
    "<script>alert('x')</script><img src=http://evil.example/a.png onerror=alert(1)> & \"quoted\""
)


class _Page(HTMLParser):
    """Collects tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def render(pairs, coverage, sources):
    def render(pairs=pairs, num_examples=20):
        config = make_config()
        return render_report(
            pairs,
            compute_metrics(pairs, config),
            coverage=coverage,
            sources=sources,
            config=config.model_dump(mode="json"),
            about="Project shop; language model owner/model; texts of 2026-11-29.",
            num_examples=num_examples,
        )

    return render


def test_report_shows_metrics_examples_and_what_they_are_of(render, pairs):
    page = _Page(render(num_examples=20))
    examples = varied_pairs(pairs, 20)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("article") == 20
    for text in (
        "xrec evaluation, test split",
        "Project shop; language model owner/model; texts of 2026-11-29.",
        "Personalization gain",
        "BLEU",
        "fingerprint-of-adapter",
        "the graph <job>",
        "95\xa0% intervals, clustered by user",
        "Of 207 held-out pairs, 7 have no text",
        "5 names_another_item, 2 no_full_sentence",
        examples[19].explanation,
        examples[19].user_id,
    ):
        assert text in page.text


def test_report_opens_with_coverage_wrong_claims_and_charts(render, pairs):
    """Of 207 pairs 200 have a text; one names an aspect that its item lacks, one another item."""
    lacking = replace(pairs[0], aspects=("river view",), explanation="It has live jazz.")
    wrong = [lacking, replace(pairs[1], other_title="The Fox"), *pairs[2:]]
    assert [num_wrong(pairs), num_wrong(wrong)] == [0, 2]
    page = _Page(render(wrong))
    start = page.text.index("96.6 % of the pairs have a text, and 1.0 % of the texts make a claim")
    assert start < page.text.index("Pairs by kind of text") < page.text.index("BLEU")
    widths = [attrs["width"] for tag, attrs in page.tags if tag == "rect"]
    assert widths[:4] == ["96.62%", "0.00%", "2.42%", "0.97%"]


def test_varied_pairs_repeat_no_text_while_others_are_left(pairs):
    same = [replace(pair, explanation="You would love its calm.") for pair in pairs[:150]]
    chosen = varied_pairs([*same, replace(pairs[0], explanation=""), *pairs[150:]], 10)
    texts = [pair.explanation for pair in chosen]
    assert len(set(texts)) == 10
    assert "" not in texts


def test_report_fetches_and_runs_nothing_and_escapes_texts_and_ids(render, pairs):
    names = ("user_id", "item_id", "explanation", "reference", "shuffled_explanation")
    hostile = replace(pairs[0], **dict.fromkeys(names, HOSTILE))
    html = render([hostile, *pairs[1:]], num_examples=len(pairs))
    page = _Page(html)
    fetched = {"script", "link", "img", "iframe", "object", "embed"}
    assert not fetched & {tag for tag, _ in page.tags}
    assert page.text.count(HOSTILE) == 5
    names = ("src", "href", "xlink:href")
    links = [attrs[name] for _, attrs in page.tags for name in names if name in attrs]
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"url\((?!#)|@import", html)


def test_evaluation_holds_metrics_pairs_report_and_manifest(tmp_path, pairs, coverage, sources):
    config = make_config()
    metrics = compute_metrics(pairs, config)

    def write(folder: Path) -> Manifest:
        about = {"sources": sources, "inputs": {"adapter": "0123"}, "about": ""}
        values = config.model_dump(mode="json")
        location = open_location(str(folder))
        return write_evaluation(location, pairs, metrics, coverage=coverage, config=values, **about)

    manifest = write(tmp_path)
    assert manifest.files.keys() == {"metrics.json", "pairs.parquet", "report.html"}
    stored = read_table(open_location(str(tmp_path / "pairs.parquet")), SCORED_PAIRS)
    assert stored["explanation"].to_pylist() == [pair.explanation for pair in pairs]
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found == manifest.metrics == flat_metrics(metrics)
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert manifest.row_counts["explained"] == coverage.num_explained
    assert write(tmp_path / "again").fingerprint == manifest.fingerprint
