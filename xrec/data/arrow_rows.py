"""Arrow's readers, for blocks of text that they read exactly as the row readers do.

All other blocks return None. Values are read as strings, except integers in JSON.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from xrec.data.block import MISSING, Block
from xrec.data.findings import Finding

_BOM = codecs.BOM_UTF8.decode()


def is_simple(text: str, delimiter: str) -> bool:
    """Return whether each line of CSV is a row, and quotes enclose whole cells or are literal."""
    if "\r" in text and text.count("\r") != text.count("\r\n"):
        return False
    return '"' not in text or (delimiter != "\t" and bool(_simple_cells(delimiter).fullmatch(text)))


@cache
def _simple_cells(delimiter: str) -> re.Pattern[str]:
    mark = re.escape(delimiter)
    quoted, plain = r'"[^"\n]*+(?:""[^"\n]*+)*+"', rf'(?:[^"\n{mark}][^\n{mark}]*+)?'
    return re.compile(rf"(?:(?:{quoted}|{plain})(?:{mark}|\r?\n|\Z))*+")


def csv_block(
    file: str,
    text: str,
    first: int,
    header: Sequence[str],
    wanted: Collection[str],
    delimiter: str,
) -> Block | None:
    """Return the rows of simple CSV text, whose first line has the number `first`.

    wanted: the columns; all if it is empty.
    """
    lines = text.removesuffix("\n").split("\n")
    is_long = max(map(len, lines)) > csv.field_size_limit()
    # Arrow drops a byte order mark, and reads an empty line as a row.
    if len(header) < 2 or is_long or text.startswith((_BOM, "\n", "\r")):
        return None
    if "\n\n" in text or "\n\r\n" in text:
        return None
    names = [str(place) for place in range(len(header))]  # unique, unlike the header
    taken = {name: names[place] for place, name in enumerate(header) if name in (wanted or header)}
    findings = list[Finding]()

    def skip(row: Any) -> str:
        line = first + row.number - 1
        reason = f"expected {len(header)} columns, saw {row.actual_columns}"
        findings.append(Finding(file, line, reason, lines[row.number - 1].rstrip("\r")))
        return "skip"

    try:
        data = text.encode()
        table = pyarrow.csv.read_csv(
            io.BytesIO(data),
            pyarrow.csv.ReadOptions(
                column_names=names, use_threads=False, block_size=len(data) + 1
            ),
            pyarrow.csv.ParseOptions(
                delimiter=delimiter, ignore_empty_lines=False, invalid_row_handler=skip
            ),
            pyarrow.csv.ConvertOptions(
                include_columns=[*taken.values()] or names[:1],
                column_types=dict.fromkeys(names, pa.large_string()),
            ),
        )
    except (pa.ArrowInvalid, UnicodeEncodeError):
        return None
    left_out = {finding.line for finding in findings}
    numbers: Sequence[int] = range(first, first + len(lines))
    if left_out:
        numbers = [number for number in numbers if number not in left_out]
    if table.num_rows != len(numbers):
        return None
    columns = {name: table[place].combine_chunks() for name, place in taken.items()}
    return Block(
        file, numbers, columns, lambda row: lines[numbers[row] - first].rstrip("\r"), findings
    )


def json_block(file: str, text: str, first: int, wanted: Collection[str]) -> Block | None:
    """Return the rows of JSON Lines whose first line has the number `first`.

    Each line must be an object. Each of the `wanted` columns must have strings or integers
    throughout, as in the first line, or be in no line.
    """
    num_lines = text.count("\n") + (not text.endswith("\n"))
    # If each line ends with } and the next one begins with {, each object is one line.
    if not wanted or text.count("}\n{") != num_lines - 1 or text.startswith(_BOM):
        return None
    try:
        data, values = text.encode(), json.loads(text.partition("\n")[0])
        types = {name: _JSON_TYPES[type(values[name])] for name in wanted if name in values}
        missing = [name for name in wanted if name not in values]
        spelled = [key for name in missing for key in (f'"{name}"', json.dumps(name))]
        if not types or any(key in text for key in spelled):  # a later line has it
            return None
        table = pyarrow.json.read_json(
            io.BytesIO(data),
            pyarrow.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            pyarrow.json.ParseOptions(
                explicit_schema=pa.schema(types), unexpected_field_behavior="ignore"
            ),
        )
    except (ValueError, TypeError, KeyError, RecursionError):  # ArrowInvalid is a ValueError
        return None
    columns = {name: table[name].combine_chunks() for name in types}
    if table.num_rows != num_lines or any(column.null_count for column in columns.values()):
        return None
    absent = {name: [MISSING] * num_lines for name in missing}
    lines = cache(lambda: text.split("\n"))
    numbers = range(first, first + num_lines)
    return Block(file, numbers, {**columns, **absent}, lambda row: lines()[row].strip())


_JSON_TYPES: Mapping[type, pa.DataType] = {str: pa.large_string(), int: pa.int64()}
