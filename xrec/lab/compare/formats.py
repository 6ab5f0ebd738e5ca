"""The table of a comparison as Markdown and as LaTeX: a row a contestant, a column a metric.

It is in parts of a few metrics each, that fit a page.
"""

from collections.abc import Mapping, Sequence

from xrec.config.comparison import SEEDS_FOR_A_VERDICT
from xrec.lab.compare.result import COSTS, Figure, Result
from xrec.lab.markdown import table_lines
from xrec.lab.measures import MetricInfo
from xrec.lab.statistics.figures import MetricRow

_ESCAPED = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
CLEAR = "*"
_METRICS_OF_PART = 7
_NONE = "--"
Rows = tuple[Sequence[str], Sequence[str]]
"""The cells of a row, and the intervals below them."""


def parts_of(result: Result) -> list[Sequence[MetricInfo]]:
    """The metrics of each part of the table, costs last."""
    infos = list(result.infos.values())
    return [
        infos[start : start + _METRICS_OF_PART] for start in range(0, len(infos), _METRICS_OF_PART)
    ]


def is_marked(result: Result, figure: Figure) -> bool:
    """Whether the figure's difference to the first contestant is clear, and may be said to be."""
    has_seeds = result.seeds_of_verdict(figure.contestant) >= SEEDS_FOR_A_VERDICT
    return bool(result.verdicts) and has_seeds and figure.is_clear


def markdown_table(result: Result) -> str:
    """The parts, with intervals in brackets, and the spread over seeds after +-."""
    return "\n".join(_markdown_part(result, infos) for infos in parts_of(result))


def _markdown_part(result: Result, infos: Sequence[MetricInfo]) -> str:
    rows = []
    for contestant in result.contestants:
        figures = result.of(contestant)
        cells = [_markdown_cell(result, figures, info) for info in infos]
        rows.append([f"`{contestant}`", *cells])
    heading = ["contestant", *(info.label for info in infos)]
    return "\n".join(table_lines(heading, rows)) + "\n"


def markdown_page(result: Result, num_pairs: int, num_users: int) -> str:
    """`table.md`: the table and what may be read from it."""
    lines = [
        "# Comparison",
        "",
        *coverage_lines(result),
        "",
        f"{num_pairs:,} held-out pairs of {num_users:,} users, the same for all. A pair without a",
        "text counts as an empty text in every metric. In brackets: 95 % intervals by user, and by",
        "seed where there are several; after ±: the standard deviation over seeds.",
        *_mark_lines(result),
        "",
        markdown_table(result),
        *_difference_lines(result),
        *(f"- {line}" for line in result.verdicts),
        *(f"- {line}" for line in result.notes),
        *(f"- not there: {line}" for line in result.missing.values()),
    ]
    return "\n".join(lines).rstrip() + "\n"


def coverage_lines(result: Result) -> list[str]:
    """The first line of everything: the share of pairs that have a text."""
    shares = [
        f"`{name}` {result.of(name)['coverage'].own.value:.3f}" for name in result.contestants
    ]
    return [f"Coverage (share of pairs with a text): {', '.join(shares)}."]


def _mark_lines(result: Result) -> list[str]:
    first, why = result.contestants[0], result.without_verdict
    marked = f"{CLEAR}: the interval of the difference to `{first}` is clear of zero."
    return [*([marked] if result.verdicts else []), *([why] if why else [])]


def _difference_lines(result: Result) -> list[str]:
    """The differences to the first contestant, in parts as the table."""
    first, *others = result.contestants
    lines = []
    for infos in parts_of(result):
        if _has_differences(result, infos):
            rows = [
                [f"`{name}`", *(difference_text(figures.get(info.name), info) for info in infos)]
                for name, figures in ((name, result.of(name)) for name in others)
            ]
            lines += [*table_lines(["contestant", *(info.label for info in infos)], rows), ""]
    return [f"Minus `{first}`, pair by pair:", "", *lines] if lines else []


def difference_text(figure: Figure | None, info: MetricInfo) -> str:
    """The difference to the first contestant with its interval; "" where there is none."""
    if figure is None or figure.difference is None:
        return ""
    found = figure.difference
    text = signed_text(found.value, info)
    if found.low is None or found.high is None:
        return text
    return f"{text} ({signed_text(found.low, info)} to {signed_text(found.high, info)})"


def latex_table(result: Result) -> str:
    """Tabulars of the package booktabs: the parts, then the differences to the first contestant.

    Below each row stand the intervals, in small type.
    """
    parts, first = parts_of(result), result.contestants[0]
    own = [
        _tabular(infos, {name: _latex_rows(result, name, infos) for name in result.contestants})
        for infos in parts
    ]
    differences = [
        _tabular(
            infos,
            {
                f"{name} - {first}": _latex_differences(result, name, infos)
                for name in result.contestants[1:]
            },
        )
        for infos in parts
        if _has_differences(result, infos)
    ]
    return "\n".join([*own, *differences])


def _has_differences(result: Result, infos: Sequence[MetricInfo]) -> bool:
    figures = (result.of(name).get(info.name) for name in result.contestants for info in infos)
    return any(figure is not None and figure.difference is not None for figure in figures)


def _latex_rows(result: Result, name: str, infos: Sequence[MetricInfo]) -> Rows:
    figures = result.of(name)
    cells = [_latex_cell(result, figures, info) for info in infos]
    rows = [None if (one := figures.get(info.name)) is None else one.own for info in infos]
    return cells, list(map(_latex_interval, rows, infos))


def _latex_differences(result: Result, name: str, infos: Sequence[MetricInfo]) -> Rows:
    figures = result.of(name)
    rows = [None if (one := figures.get(info.name)) is None else one.difference for info in infos]
    cells = [
        _NONE if row is None else f"${signed_text(row.value, info)}$"
        for row, info in zip(rows, infos, strict=True)
    ]
    return cells, list(map(_latex_interval, rows, infos))


def _tabular(infos: Sequence[MetricInfo], rows: Mapping[str, Rows]) -> str:
    header = " & ".join(["", *(_tex(info.label) for info in infos)])
    lines = [
        r"\begin{tabular}{l" + "r" * len(infos) + "}",
        r"\toprule",
        rf"{header} \\",
        r"\midrule",
    ]
    for name, (cells, intervals) in rows.items():
        lines.append(rf"{_tex(name)} & {' & '.join(cells)} \\")
        if any(intervals):
            lines.append(rf" & {' & '.join(intervals)} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def value_text(value: float, info: MetricInfo) -> str:
    """The value with the metric's digits, and thousands apart where there are none."""
    return f"{value:,.0f}" if info.digits == 0 else f"{value:.{info.digits}f}"


def signed_text(value: float, info: MetricInfo) -> str:
    """The same with a sign."""
    return f"{'+' if value >= 0 else ''}{value_text(value, info)}"


def _markdown_cell(result: Result, figures: Mapping[str, Figure], info: MetricInfo) -> str:
    figure = figures.get(info.name)
    if figure is None:
        return ""
    own, spread = figure.own, figure.seed_spread
    mark = CLEAR if is_marked(result, figure) else ""
    text = f"{value_text(own.value, info)}{mark}"
    if own.low is not None and own.high is not None:
        text += f" ({value_text(own.low, info)} to {value_text(own.high, info)})"
    return text if spread is None else f"{text} ±{value_text(spread, info)}"


def _latex_cell(result: Result, figures: Mapping[str, Figure], info: MetricInfo) -> str:
    figure = figures.get(info.name)
    if figure is None:
        return _NONE
    value = value_text(figure.own.value, info).replace(",", r"\,")
    mark = f"^{{{CLEAR}}}" if is_marked(result, figure) else ""
    spread = figure.seed_spread
    below = ""
    if spread is not None and info.name not in COSTS:
        below = rf"_{{\pm {value_text(spread, info)}}}"
    return f"${value}{mark}{below}$"


def _latex_interval(row: MetricRow | None, info: MetricInfo) -> str:
    if row is None or row.low is None or row.high is None:
        return ""
    low, high = (value_text(end, info).replace(",", r"\,") for end in (row.low, row.high))
    return rf"{{\scriptsize $({low},\ {high})$}}"


def _tex(text: str) -> str:
    return "".join(_ESCAPED.get(character, character) for character in text)
