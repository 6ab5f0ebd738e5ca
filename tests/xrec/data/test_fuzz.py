"""Any file of CSV or JSON Lines: each row is read as Python's csv and json read it, or is refused.

A refused row is a finding with its file, line, reason and text; the reason names our column. A file
as a whole is refused by a DataError. No row is lost or doubled, however the file is cut in blocks.
"""

import csv
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Any

import pytest
from hypothesis import example
from hypothesis import strategies as st

from tests.fuzz import FEW_OR_MANY, JSON, examples
from xrec.annotate.cells import parse_review, parse_time, parse_votes, rating_parser
from xrec.data.rows import (
    FileRows,
    Parser,
    joined_rows,
    parse_description,
    parse_id,
    parse_split,
    parse_text,
    stream_rows,
)
from xrec.errors import DataError

COLUMNS = {"user_id": parse_id, "profile": parse_text}
PARSERS = (
    *(parse_id, parse_text, parse_description, parse_split),
    *(parse_review, parse_time, parse_votes, rating_parser(1, 5)),
)
# What formats and parsers care about comes more often than by chance.
ODD = ['"', '""', ",", ";", "\t", "|", "\n", "\r", "\r\n", "\0", "\ufeff", "\x1a", "\x85", "\u2028"]
ODD += ["{", "}", "[]", "\\", "'", "&amp;", "<br>", " ", "é", "\U0001f375", "007", "1e5", "nan", ""]
TEXTS = st.lists(st.sampled_from(ODD) | st.text(max_size=5), max_size=4).map("".join)
ROWS = st.lists(st.tuples(TEXTS, TEXTS), max_size=8)
BLOCKS = st.sampled_from([1, 7, 64, 1 << 20])
PIECES = [
    *(each.encode() for each in ODD),
    b"\xef\xbb\xbf",
    b"\xff",
    b"\xc3",
    b"a",
    b"b c",
    b"a,b\n",
]
PIECES += [b'"a","b"\n', b'{"user_id": "a", "profile": "b"}\n', b'{"user_id": 1}', b"\n" * 3]
BYTES = st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=25).map(b"".join)
REFUSALS = {"open_quote", "broken_header", "missing_column", "repeated_column", "broken_file"}
Cells = tuple[int, str, str]


def read(file: str, data: bytes, block_bytes: int = 1 << 20, **how: Any) -> FileRows | DataError:
    """The rows of the file, each of which is there once, or why the file is refused."""
    refused = None
    try:
        parts = stream_rows(file, io.BytesIO(data), COLUMNS, block_bytes=block_bytes, **how)
        rows = joined_rows(parts)
    except DataError as error:
        refused = error
    if refused is not None:
        assert refused.code in REFUSALS
        assert file in str(refused)
        return refused
    numbers = [*rows.table["line"].to_pylist(), *(each.line for each in rows.findings)]
    assert len(numbers) == len(set(numbers)) == rows.num_rows
    assert rows.table["line"].to_pylist() == sorted(rows.table["line"].to_pylist())
    for each in rows.findings:
        assert (each.file, bool(each.reason)) == (file, True)
        assert each.text
    return rows


def reason(parse: Parser, cell: object) -> str:
    """Why a parser refuses a cell; empty if it takes it, which must be valid as UTF-8."""
    try:
        taken = parse(cell)
    except ValueError as error:
        return str(error)
    assert (taken or "").encode("utf-8").decode("utf-8") == (taken or "")
    return ""


def cells_of(rows: FileRows) -> list[Cells]:
    return [(row["line"], row["user_id"], row["profile"]) for row in rows.table.to_pylist()]


def written(rows: Sequence[Sequence[str]], delimiter: str, end: str, quoting: int) -> str:
    text = io.StringIO(newline="")
    if end == "\n":  # or a carriage return would be in no quotes
        quoting = csv.QUOTE_ALL
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([list(COLUMNS), *rows])
    return text.getvalue()


def judged(rows: Sequence[tuple[int, Any, Any]]) -> tuple[list[Cells], list[int]]:
    """What our parsers take of rows by line, user and profile, and the lines of the others."""
    good, bad = [], []
    for number, user, profile in rows:
        try:
            good.append((number, parse_id(user), parse_text(profile)))
        except ValueError:
            bad.append(number)
    return good, bad


def holds_rows(rows: Sequence[Sequence[str]], delimiter: str) -> bool:
    """Whether a cell looks as if its quote had taken in other rows."""
    cells = (cell for row in rows for cell in row if delimiter in cell)
    return any("\n" in cell or "\r" in cell for cell in cells)


def records(data: bytes, delimiter: str) -> Iterator[tuple[int, list[str] | None]]:
    """The records that Python reads by the number of their first line; None for a broken one."""
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            yield number, next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield number, None


@FEW_OR_MANY
@pytest.mark.parametrize("tables", [ROWS, BYTES], ids=["written", "bytes"])
def test_csv_is_read_as_python_reads_it_or_refused(how, tables):
    usual = {"delimiter": ",", "end": "\n", "quoting": csv.QUOTE_ALL, "mark": "utf-8"}
    usual |= {"packs": False, "has_header": True}

    @example(table=[("\ufeffa", "b")], block_bytes=7, **usual)
    @example(table=b"a" * 140_000 + b",x\nb,y\n", block_bytes=7, **usual)
    def check(table, has_header, delimiter, end, quoting, mark, packs, block_bytes):
        """Read a table after csv wrote it, or bytes below a header or without one."""
        is_written = isinstance(table, list)
        if is_written:
            data = written(table, delimiter, end, quoting).encode(mark)
        else:
            data = (delimiter.join(COLUMNS) + "\n").encode() * has_header + table
        file = "x.csv.gz" if packs else "x.csv"
        found = read(file, gzip.compress(data) if packs else data, block_bytes, delimiter=delimiter)
        may_be_plain = holds_rows(table, delimiter) if is_written else b'"' in data
        if isinstance(found, DataError):
            if is_written or has_header:
                assert (found.code, may_be_plain) == ("open_quote", True)
            return
        if delimiter == "\t" and may_be_plain:
            return
        (_, header), *rows = records(data, delimiter)
        if is_written:
            assert [tuple(cells) for _, cells in rows] == table
        rows = [(line, cells) for line, cells in rows if cells != []]
        is_whole = [cells is not None and len(cells) == len(header) for _, cells in rows]
        wanted = [header.index(name) for name in COLUMNS]
        whole = [(line, *(cells[n] for n in wanted)) for line, cells in compress(rows, is_whole)]
        good, bad = judged(whole)
        assert cells_of(found) == good
        broken = [line for (line, _), whole in zip(rows, is_whole, strict=True) if not whole]
        assert [each.line for each in found.findings] == sorted([*bad, *broken])

    examples(
        how,
        check,
        table=tables,
        has_header=st.booleans(),
        delimiter=st.sampled_from(",;\t|"),
        end=st.sampled_from(["\n", "\r\n"]),
        quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
        mark=st.sampled_from(["utf-8", "utf-8-sig"]),
        block_bytes=BLOCKS,
        packs=st.booleans(),
    )


VALUES = JSON | TEXTS | st.lists(TEXTS, max_size=3) | st.sampled_from(["\ud800", 10**30])
NAMES = st.sampled_from([*COLUMNS, "other"])
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=3) | st.fixed_dictionaries(
    {"user_id": TEXTS | st.integers(), "profile": TEXTS}
)


TWO_IN_A_LINE = st.tuples(OBJECTS, OBJECTS).map(lambda two: " ".join(map(json.dumps, two)))
COMPACT = OBJECTS.map(lambda each: json.dumps(each, ensure_ascii=False, separators=(",", ":")))
LINES = st.lists((OBJECTS | VALUES).map(json.dumps) | COMPACT | TWO_IN_A_LINE | TEXTS, max_size=8)
JSON_LINES = st.builds(
    lambda lines, end, last: (end.join(lines) + last).encode("utf-8", "surrogatepass"),
    *(LINES, st.sampled_from(["\n", "\r\n"]), st.sampled_from(["\n", ""])),
)


@FEW_OR_MANY
@pytest.mark.parametrize("files", [JSON_LINES, BYTES], ids=["lines", "bytes"])
def test_json_lines_are_read_as_python_reads_them_or_refused(how, files):
    @example(
        data=b"[" * 100_000 + b'\n{"user_id": 1, "profile": "a\xe2\x80\xa8b"}\n', block_bytes=1
    )
    @example(data=b'\n\xef\xbb\xbf{"user_id": "a", "profile": "b"}\n', block_bytes=1)
    def check(data, block_bytes):
        found = read("x.jsonl", data, block_bytes)
        if isinstance(found, DataError):
            assert found.code == "missing_column"
            return
        whole, bad = list[tuple[int, Any, Any]](), list[int]()
        text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except (ValueError, RecursionError):
                values = None
            if isinstance(values, dict) and COLUMNS.keys() <= values.keys():
                whole.append((number, values["user_id"], values["profile"]))
            else:
                bad.append(number)
        good, refused = judged(whole)
        assert cells_of(found) == good
        assert [each.line for each in found.findings] == sorted([*bad, *refused])

    examples(how, check, data=files, block_bytes=BLOCKS)


@FEW_OR_MANY
def test_any_cell_is_taken_or_refused_with_a_reason(how):
    def check(value, digits):
        for cell in (value, "7" * digits, f"{value}-01-02 {digits}"):
            reasons = [reason(parse, cell) for parse in PARSERS]
            assert all(each.startswith("must ") for each in reasons if each)

    examples(how, check, value=VALUES, digits=st.integers(0, 5000))
