"""`report.html` of a comparison: the table, plots, groups, and the same pairs side by side.

The page is self-contained: style and SVG are inline, there is no script, and nothing is fetched.
Equal arguments give an equal page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup

from xrec.data.held_out import HeldOutPair
from xrec.evaluate.plots import Plot, group_plot, interval_plot
from xrec.lab.compare.formats import CLEAR, is_marked, signed_text, value_text
from xrec.lab.compare.pairs import PairIds
from xrec.lab.compare.result import COSTS, COVERAGE, Figure, Result
from xrec.lab.measures import MetricInfo

_NOT_PLOTTED = (*COSTS, COVERAGE)


@dataclass(frozen=True)
class Example:
    """A pair with its reference, and the text of each contestant, None where it has none."""

    pair: HeldOutPair
    item_title: str
    texts: Mapping[str, str | None]


def render_report(
    result: Result,
    examples: Sequence[Example],
    *,
    num_pairs: int,
    num_users: int,
    failed: Mapping[str, Mapping[str, int]],
    config: Mapping[str, Any],
) -> str:
    """The page as HTML text.

    failed: of each contestant, how many pairs have no text, by reason, over all of its seeds.
    """
    environment = Environment(
        loader=PrefixLoader(
            {
                "compare": PackageLoader("xrec.lab.compare"),
                "evaluate": PackageLoader("xrec.evaluate"),
            }
        ),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("compare/report.html").render(
        style=Markup(environment.get_template("evaluate/report.css").render()),
        result=result,
        infos=list(result.infos.values()),
        first=result.contestants[0],
        rows=_rows(result),
        differences=_differences(result),
        plots=_plots(result),
        groups=[_group_tables(result, grouping) for grouping in result.groupings],
        examples=examples,
        num_pairs=num_pairs,
        num_users=num_users,
        failed=failed,
        mark=CLEAR,
        settings=str(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)),
    )


@dataclass(frozen=True)
class Cell:
    """A figure in words; empty strings where there is none."""

    value: str = ""
    interval: str = ""
    spread: str = ""


def _rows(result: Result) -> list[tuple[str, list[Cell]]]:
    """A row a contestant: its name, and a cell a metric."""
    rows = []
    for name in result.contestants:
        figures = result.of(name)
        cells = [_cell(result, figures.get(info.name), info) for info in result.infos.values()]
        rows.append((name, cells))
    return rows


def _cell(result: Result, figure: Figure | None, info: MetricInfo) -> Cell:
    if figure is None:
        return Cell()
    mark = CLEAR if is_marked(result, figure) else ""
    spread = figure.seed_spread
    return Cell(
        value_text(figure.own.value, info) + mark,
        _interval(figure.own.low, figure.own.high, info),
        "" if spread is None else value_text(spread, info),
    )


def _differences(result: Result) -> list[tuple[str, list[Cell]]]:
    """As `_rows`, of the differences to the first contestant; without it and without costs."""
    rows = []
    for name in result.contestants[1:]:
        figures = result.of(name)
        cells = []
        for info in result.infos.values():
            figure = figures.get(info.name)
            if figure is None or figure.difference is None:
                cells.append(Cell())
                continue
            found = figure.difference
            cells.append(
                Cell(
                    signed_text(found.value, info),
                    _interval(found.low, found.high, info),
                )
            )
        rows.append((name, cells))
    return rows


def _interval(low: float | None, high: float | None, info: MetricInfo) -> str:
    if low is None or high is None:
        return ""
    return f"{value_text(low, info)} to {value_text(high, info)}"


def _plots(result: Result) -> list[Plot]:
    plots = []
    for metric, info in result.infos.items():
        figures = [(name, result.of(name).get(metric)) for name in result.contestants]
        there = [(name, figure.own) for name, figure in figures if figure is not None]
        if metric in _NOT_PLOTTED or not there:
            continue
        rows = [(name, own.value, own.low, own.high) for name, own in there]
        plots.append(Plot(info.label, info.meaning, Markup(interval_plot(rows, info.label))))
    return plots


@dataclass(frozen=True)
class GroupTable:
    """A metric by group: a row a contestant with a value a group, and the plot."""

    info: MetricInfo
    rows: Sequence[tuple[str, Sequence[str]]]
    plot: Plot


def _group_tables(result: Result, grouping: str) -> tuple[str, list[str], list[GroupTable]]:
    """The grouping in words, the names of its groups, and a table a metric."""
    names = result.groups(grouping)
    words = grouping.replace("_", ", by number of training ")
    tables = []
    for metric, info in result.infos.items():
        if metric in COSTS:
            continue
        lines = {
            contestant: [
                figure.own.value
                if (figure := result.of(contestant, grouping, group).get(metric)) is not None
                else np.nan
                for group in names
            ]
            for contestant in result.contestants
        }
        rows = [
            (name, ["" if np.isnan(value) else value_text(value, info) for value in values])
            for name, values in lines.items()
        ]
        svg = Markup(group_plot(lines, names, info.label))
        tables.append(GroupTable(info, rows, Plot(info.label, info.meaning, svg)))
    return words, names, tables


def examples_of(
    pairs: Sequence[HeldOutPair],
    titles: Sequence[str],
    texts: Mapping[str, Mapping[PairIds, str | None]],
) -> list[Example]:
    """The pairs with their items' titles and each contestant's text."""
    return [
        Example(
            pair,
            title,
            {name: of_pairs.get((pair.user_id, pair.item_id)) for name, of_pairs in texts.items()},
        )
        for pair, title in zip(pairs, titles, strict=True)
    ]
