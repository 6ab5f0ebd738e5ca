"""A page of tables and charts: the report of jobs that need no template of their own."""

from collections.abc import Iterable, Mapping
from importlib import resources

import pandas as pd
from markupsafe import Markup

from xrec.progress import short

_HEAD = (
    "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport "
    "content='width=device-width, initial-scale=1'><meta name=color-scheme content='light dark'>"
    "<title>xrec</title><style>{style}</style><main class=tables>"
)


def tables_page(tables: Mapping[str, pd.DataFrame], charts: Iterable[Markup] = ()) -> str:
    """Return an HTML page with a heading and a table for each entry; pandas escapes the values.

    The charts come below the first heading. A table with one column is a list of named values and
    has no header. An index of row numbers is not shown.
    """
    style = resources.files("xrec.evaluate").joinpath("templates/report.css").read_text()
    page, below = _HEAD.format(style=style), "".join(charts)
    below = below and f'<div class="charts">{below}</div>'
    with pd.option_context("display.max_colwidth", None, "display.html.border", 0):
        for heading, table in tables.items():
            shown = table.to_html(
                header=table.shape[1] > 1,
                index=not isinstance(table.index, pd.RangeIndex),
                float_format=short,
                na_rep="-",
            )
            page += f'<h2>{heading}</h2>{below}<div class="wide">{shown}</div>'
            below = ""
    return page
