"""The report of an evaluation."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.xrec.evaluate.conftest import make_config
from xrec.evaluate.evaluation import num_wrong, render_report
from xrec.evaluate.metrics import compute_metrics

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
def render(coverage):
    def render(pairs, num_examples=20):
        config = make_config()
        return render_report(
            pairs,
            compute_metrics(pairs, config),
            coverage=coverage,
            sources={},
            config=config.model_dump(mode="json"),
            about="Project shop; language model owner/model; texts of 2026-11-29.",
            num_examples=num_examples,
        )

    return render


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
