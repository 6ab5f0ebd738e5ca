"""Renders the report as one HTML page without other files."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;"
    "color:#222}"
    "table{border-collapse:collapse;margin:.5rem 0 1.5rem}"
    "td,th{padding:.3rem .8rem .3rem 0;text-align:left;vertical-align:top;"
    "border-bottom:1px solid #ddd}"
)


def report_page(report: Mapping[str, Any]) -> str:
    """The HTML page of a report of xrec.annotate.report."""
    sections = [
        "<h1>Annotations</h1>",
        _table(("", ""), _figures(report)),
        "<h2>What was dropped, rejected, removed, and failed</h2>",
        _table(("what", "reason", "number"), list(_losses(report))),
        "<h2>The most frequent aspects, and their training reviews in the sample</h2>",
        _table(("aspect", "reviews"), list(report["frequent_aspects"].items())),
        "<h2>Explanations beside their reviews</h2>",
        _table(
            ("split", "explanation", "aspects", "review"),
            [
                (
                    row["split"],
                    row["explanation"],
                    "; ".join(_aspect(each) for each in row["aspects"]),
                    row["review"],
                )
                for row in report["explanations"]
            ],
        ),
        "<h2>Items, beside some of their training reviews</h2>",
        _table(
            ("title", "profile", "reviews"),
            [(row["title"], row["profile"], _listed(row)) for row in report["items_shown"]],
        ),
        "<h2>Users, beside some of their training reviews</h2>",
        _table(
            ("user", "profile", "reviews"),
            [(row["user_id"], row["profile"], _listed(row)) for row in report["users_shown"]],
        ),
    ]
    return (
        f"<!doctype html><meta charset=utf-8><title>Annotations</title><style>{_STYLE}</style>"
        + "\n".join(sections)
    )


def _figures(report: Mapping[str, Any]) -> list[tuple[str, Any]]:
    reviews = ", ".join(f"{count:,} {split}" for split, count in report["reviews"].items())
    return [
        ("reviews", reviews),
        ("users; items", f"{report['users']:,}; {report['items']:,}"),
        ("pairs in the sample", f"{report['sampled_pairs']:,}"),
        ("pairs whose reviews praise nothing", f"{report['pairs_without_praise']:.1%}"),
        ("words of an explanation", f"{report['explanation_words']:.1f}"),
        ("distinct words of 100 explanations", report["distinct_words_per_100_explanations"]),
        ("aspects of a review", f"{report['aspects_per_review']:.2f}"),
        ("aspects whose name stands in the review", f"{report['aspects_in_review']:.1%}"),
        (
            "aspects whose name or opinion stands there",
            f"{report['aspects_or_opinions_in_review']:.1%}",
        ),
        ("explanations that repeat 8 words of it", f"{report['verbatim_explanations']:.1%}"),
        *((name.replace("_", " "), f"{value:.4g}") for name, value in report["annotator"].items()),
    ]


def _losses(report: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    plain = {
        "dropped reviews": report["dropped"],
        "rejected rows": report["rejected"],
        "personal data removed": report["personal_removed"],
    }
    failed = {f"failed: {stage}": reasons for stage, reasons in report["failed"].items()}
    return [
        (what, reason, count)
        for what, reasons in {**plain, **failed}.items()
        for reason, count in reasons.items()
    ]


def _aspect(each: Mapping[str, str]) -> str:
    return " ".join(filter(None, (each["aspect"], each["opinion"], f"({each['sentiment']})")))


def _listed(row: Mapping[str, Any]) -> str:
    return " \u2022 ".join(row["reviews"])


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>"]
    lines += [
        f"<tr>{''.join(f'<td>{escape(str(value))}</td>' for value in row)}</tr>" for row in rows
    ]
    return f"<table>{''.join(lines)}</table>"
