"""A page of tables: the report of jobs that need no template of their own."""

from collections.abc import Mapping

import pandas as pd

from xrec.progress import short

_HEAD = (
    "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    "<title>xrec</title><style>:root{color-scheme:light dark}body{font:15px/1.5 system-ui;"
    "max-width:72rem;margin:2rem auto;padding:0 1rem}table{border-collapse:collapse;display:block;"
    "overflow-x:auto}td,th{padding:.3rem .8rem .3rem 0;text-align:left;vertical-align:top;"
    "border-bottom:1px solid #8885}td{min-width:5rem}td:last-child{min-width:15rem}</style>"
)


def tables_page(tables: Mapping[str, pd.DataFrame]) -> str:
    """Return an HTML page with a heading and a table for each entry; pandas escapes the values.

    A table with one column is a list of named values and has no header. An index of row numbers is
    not shown.
    """
    page = _HEAD
    with pd.option_context("display.max_colwidth", None, "display.html.border", 0):
        for heading, table in tables.items():
            shown = table.to_html(
                header=table.shape[1] > 1,
                index=not isinstance(table.index, pd.RangeIndex),
                float_format=short,
                na_rep="-",
            )
            page += f"<h2>{heading}</h2>{shown}"
    return page
