"""Renders the report as one HTML page without other files: tables, and a plot as SVG."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _HEIGHT = 720, 140
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#222}"
    "table{border-collapse:collapse;margin:.5rem 0 1.5rem}"
    "td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top;"
    "border-bottom:1px solid #ddd}"
    "svg{background:#f6f6f6}"
)
_EVIDENCE = (
    "<p>Evidence is how many training reviews of the item, and of the user, have the aspect. On a "
    "dataset without reviews the item's profile is its only one, and the user's are the profiles "
    "of the items that they interacted with.</p>"
)


def report_page(report: Mapping[str, Any]) -> str:
    """Return the HTML page of a report of xrec.backfill.report."""
    sections = [
        "<h1>Backfill</h1>",
        _table(("", ""), _figures(report)),
        "<h2>Failed rows</h2>",
        _table(("reason", "rows"), list(report["failed_by_reason"].items())),
        "<h2>Tokens of an explanation, of the first ones</h2>",
        _bars(list(report["generated_lengths"].values())),
        _table(("from", "explanations"), list(report["generated_lengths"].items())),
        "<h2>Some explanations</h2>",
        _EVIDENCE,
        _table(
            ("user", "item", "explanation", "evidence", "kind"),
            [
                (
                    row["user_id"],
                    row["item_id"],
                    row["explanation"],
                    "; ".join(map(_shown, row["aspects"])),
                    row["kind"],
                )
                for row in report["samples"]
            ],
        ),
        "<h2>Some failed rows</h2>",
        _table(
            ("user", "item", "reason", "message"),
            [tuple(row.values())[:4] for row in report["failed_samples"]],
        ),
    ]
    return (
        f"<!doctype html><meta charset=utf-8><title>Backfill</title><style>{_STYLE}</style>"
        + "\n".join(sections)
    )


def _figures(report: Mapping[str, Any]) -> list[tuple[str, Any]]:
    cost = report["cost_per_million_pairs"]
    return [
        ("version of the table", report["version"]),
        ("retries", report["num_retries"]),
        ("explained", report["num_explained"]),
        ("of them carried over from an earlier version", report["num_carried"]),
        ("plain sentences, of those explained in this run", report["num_plain"]),
        ("explained at the second try, or plainly", report["num_refused"]),
        ("failed", report["num_failed"]),
        ("rejected, since they have no usable ids", report["num_rejected"]),
        ("prompt tokens", report["tokens"]["prompt"]),
        ("generated tokens", report["tokens"]["generated"]),
        ("prompt tokens shared with another prompt", _share(report["prefix_hit_share"])),
        ("padding in attention", _share(report["attention_padding_share"])),
        ("processes that died at work", report["num_deaths"]),
        ("hours of actors at work", report["actor_seconds"] / 3600),
        ("pairs a second of an actor", report["pairs_per_actor_second"]),
        ("cost of a million pairs", "price_per_actor_hour is not set" if cost is None else cost),
    ]


def _shown(evidence: Mapping[str, Any]) -> str:
    """An aspect in words, with a mark if the text names it, and where else it is."""
    mark = " (named)" if evidence["is_named"] else ""
    mark += f" \u201c{evidence['opinion']}\u201d" if evidence["opinion"] else ""
    return (
        f"{evidence['aspect']}{mark}: {evidence['item_reviews']} of "
        f"{evidence['num_item_reviews']} of the item, {evidence['user_reviews']} of "
        f"{evidence['num_user_reviews']} of the user"
    )


def _share(value: float | None) -> str:
    return "not reported by the engine" if value is None else f"{value:.1%}"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return "<p>None.</p>"
    lines = ["".join(f"<td>{escape(_cell(value))}</td>" for value in row) for row in rows]
    return (
        f"<table><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>"
        + "".join(f"<tr>{line}</tr>" for line in lines)
        + "</table>"
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _bars(heights: Sequence[float]) -> str:
    """Draw bars side by side; the highest fills the plot, its height is above."""
    highest = max(heights, default=0)
    if highest <= 0:
        return "<p>None.</p>"
    width = _WIDTH / len(heights)
    drawn = "".join(
        f'<rect x="{place * width:.1f}" y="{_HEIGHT * (1 - height / highest):.1f}" '
        f'width="{width * 0.9:.1f}" height="{_HEIGHT * height / highest:.1f}" fill="#4878a8"/>'
        for place, height in enumerate(heights)
    )
    return f"<p>highest: {_cell(highest)}</p><svg width={_WIDTH} height={_HEIGHT}>{drawn}</svg>"
