"""What sources of table files have in common: which files and columns a config may name."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

TABLE_ENDINGS = (
    ".parquet",
    ".csv",
    ".tsv",
    ".jsonl",
    ".json",
    ".csv.gz",
    ".tsv.gz",
    ".jsonl.gz",
    ".json.gz",
)
"""The endings of the files of tables; .json and .jsonl have an object a line."""

Delimiter = Literal[",", ";", "\t", "|"]
"""What may separate the columns of CSV files."""

TableColumns = Mapping[str, tuple[str, ...]]
"""Our columns of each table."""

NamedColumns = Mapping[str, str | list[str] | None]
"""The files' columns by ours, as a config names them: `column` or `table.column`."""


def check_files(files: Mapping[Any, str]) -> None:
    """Raise ValueError unless each table's file ends in one of TABLE_ENDINGS."""
    for table, name in files.items():
        if not name.lower().endswith(TABLE_ENDINGS):
            raise ValueError(
                f"files.{table}: {name!r} must end in one of {', '.join(TABLE_ENDINGS)}"
            )


def column_of(key: str, tables: TableColumns) -> str:
    """Our column that a key of `columns` means; raises ValueError if it is none of ours."""
    table, dot, column = key.rpartition(".")
    known: Sequence[str] = tables.get(table, ()) if dot else _all_columns(tables)
    if column not in known:
        expected = ", ".join(known or (f"{name}.<column>" for name in tables))
        raise ValueError(f"columns: {key!r} is none of our columns; expected {expected}")
    return column


def names_in(named: NamedColumns, tables: TableColumns, table: str) -> dict[str, tuple[str, ...]]:
    """The file's columns for each of our columns of `table` that `named` names."""
    return {
        column: _as_tuple(named[key])
        for column in tables[table]
        for key in (column, f"{table}.{column}")
        if key in named
    }


def _all_columns(tables: TableColumns) -> tuple[str, ...]:
    return tuple(dict.fromkeys(column for columns in tables.values() for column in columns))


def _as_tuple(value: str | list[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
