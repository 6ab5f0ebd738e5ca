"""`table.md`: a comparison for a reader, as Markdown.

The table has a row an entry and a column a metric, in parts of a few metrics each, that fit a
page. Differences to the first entry, and the same pairs side by side stand below it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from xrec.data import HeldOutPair
from xrec.evaluate.measure import Metric
from xrec.lab.compare.figures import MetricRow
from xrec.lab.compare.result import Figure, Result

CLEAR = "*"
"""What marks a figure whose difference to the first entry is clear of zero."""
_METRICS_OF_PART = 7
ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}
Cell = Callable[[Figure | None, Metric, bool], str]
"""A figure by its metric, and whether the entry may have a verdict."""


@dataclass(frozen=True)
class Example:
    """A pair with its reference, and the text of each entry, None where it has none."""

    pair: HeldOutPair
    item_title: str
    texts: Mapping[str, str | None]


def markdown_page(
    result: Result,
    pairs: Sequence[HeldOutPair],
    failed: Mapping[str, Mapping[str, int]],
    examples: Sequence[Example],
) -> str:
    """The page.

    failed: of each entry, how many pairs have no text, by reason, over all of its seeds.
    """
    first, num_users = result.entries[0], len({pair.user_id for pair in pairs})
    lines = [
        "# Comparison",
        "",
        f"{len(pairs):,} held-out pairs of {num_users:,} users, the same for all. A pair without a",
        "text counts as an empty text in every metric. In brackets: 95 % intervals by user, and by",
        "seed where there are several; after ±: the standard deviation over seeds.",
        f"{CLEAR}: the interval of the difference to `{first}` is clear of zero.",
        *([result.without_verdict] if result.without_verdict else []),
        "",
        *_parts(result, result.entries, own_cell),
        f"Minus `{first}`, pair by pair:",
        "",
        *_parts(result, result.entries[1:], difference_cell),
        *(f"- {line}" for line in (*_failed_lines(failed), *result.notes)),
        "",
        *(line for example in examples for line in _example_lines(example)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _parts(result: Result, names: Sequence[str], cell: Cell) -> list[str]:
    """Tables of a few metrics each, a row an entry; a part without any figure is left out."""
    infos = list(result.infos.values())
    entries = [(name, result.figures[name], result.has_seeds(name)) for name in names]
    lines: list[str] = []
    for start in range(0, len(infos), _METRICS_OF_PART):
        part = infos[start : start + _METRICS_OF_PART]
        rows = [
            [f"`{name}`", *(cell(figures.get(info.name), info, can_tell) for info in part)]
            for name, figures, can_tell in entries
        ]
        lines += _table(["entry", *(f"{info.label}{ARROWS[info.better]}" for info in part)], rows)
    return lines


def _table(heading: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a table, without rows whose cells behind the first are empty; [] if all are."""
    rows = [row for row in rows if any(row[1:])]
    if not rows:
        return []
    return [*(f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *rows)), ""]


def own_cell(figure: Figure | None, info: Metric, can_tell: bool) -> str:
    """Return the figure with its interval, spread over seeds and mark; "" if there is none."""
    if figure is None:
        return ""
    mark = CLEAR if figure.is_clear and can_tell else ""
    spread = "" if figure.seed_spread is None else f" ±{_shown(figure.seed_spread, info)}"
    return f"{_shown(figure.own.value, info)}{mark}{_interval(figure.own, info)}{spread}"


def difference_cell(figure: Figure | None, info: Metric, can_tell: bool) -> str:
    """Return the difference to the first entry; "" for that entry, and for costs."""
    if figure is None or figure.difference is None:
        return ""
    found = figure.difference
    return f"{_shown(found.value, info, '+')}{_interval(found, info, '+')}"


def _interval(row: MetricRow, info: Metric, sign: str = "") -> str:
    if row.low is None or row.high is None:
        return ""
    return f" ({_shown(row.low, info, sign)} to {_shown(row.high, info, sign)})"


def _shown(value: float, info: Metric, sign: str = "") -> str:
    """The value with the metric's digits, and thousands apart where there are none."""
    return f"{value:{sign}{',' if info.digits == 0 else ''}.{info.digits}f}"


def _failed_lines(failed: Mapping[str, Mapping[str, int]]) -> list[str]:
    return [
        f"`{name}` has no text of some pairs, over all seeds: "
        + ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
        for name, reasons in failed.items()
    ]


def _example_lines(example: Example) -> list[str]:
    """The same pair's texts, each in one line."""
    pair, title = example.pair, f" ({example.item_title})" if example.item_title else ""
    said = {"reference": pair.reference, **example.texts}
    return [
        f"## User {pair.user_id}, item {pair.item_id}{title}",
        "",
        *(f"- `{name}`: {' '.join((text or '(no text)').split())}" for name, text in said.items()),
        "",
    ]
