"""A comparison as CSV, LaTeX and HTML, for programs, papers and browsers."""

from collections.abc import Mapping

import pandas as pd
from markupsafe import Markup

from xrec.evaluate.chart import Bar, bar_chart
from xrec.evaluate.page import tables_page
from xrec.lab.compare.result import Result, result_table
from xrec.lab.compare.table import ARROWS, Cell, difference_cell, own_cell

_NUM_CHARTS = 4
_SYMBOLS = {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "±": r"$\pm$"}


def other_formats(result: Result) -> Mapping[str, str]:
    """Return the contents of table.csv, table.tex and table.html.

    table.csv has all digits and a row per entry and metric. The others have rounded figures: in
    LaTeX (with booktabs) a row per metric and a column per entry, in HTML a row per entry.
    """
    own = _frame(result, own_cell)
    notes = pd.Series([note for note in (result.without_verdict, *result.notes) if note])
    tables = {
        "Comparison": own,
        "Minus the first entry": _frame(result, difference_cell),
        "Notes": notes.to_frame(),
    }
    latex = own.T.to_latex(escape=True, na_rep="")
    for symbol, command in _SYMBOLS.items():
        latex = latex.replace(symbol, command)
    rows = result_table(result).drop_columns("by_seed").to_pandas()
    return {
        "table.csv": rows.to_csv(index=False, lineterminator="\n"),
        "table.tex": latex,
        "table.html": tables_page(
            {heading: table for heading, table in tables.items() if table.size}, _charts(result)
        ),
    }


def _frame(result: Result, cell: Cell) -> pd.DataFrame:
    """Return the cells, a row per entry and a column per metric, without those that are empty."""
    rows = {
        name: {
            info.label + ARROWS[info.better]: cell(
                figures.get(info.name), info, result.has_seeds(name)
            )
            for info in result.infos.values()
        }
        for name, figures in result.figures.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.loc[(table != "").any(axis=1), (table != "").any(axis=0)]


def _charts(result: Result) -> list[Markup]:
    """Return bars of the first metrics, an entry a bar."""
    charts = []
    for info in [*result.infos.values()][:_NUM_CHARTS]:
        figures = {name: of_entry.get(info.name) for name, of_entry in result.figures.items()}
        values = {name: found.own.value for name, found in figures.items() if found is not None}
        better = f"{info.better} is better" if info.better else "neither is better"
        if min(values.values()) >= 0:
            charts.append(bar_chart(info.label, better, [Bar(*each) for each in values.items()]))
    return charts
