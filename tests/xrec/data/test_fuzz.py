"""Any file of CSV or JSON Lines: each row is read as Python's csv and json read it, or is refused.

A refused row is a finding with its file, line, reason and text; the reason names our column. A file
as a whole is refused by a DataError. No row is lost or doubled, however the file is cut in blocks.
"""

import csv
import gzip
import io
import json
from collections.abc import Iterator, Sequence
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


def judged(rows: Iterator[tuple[int, Any, Any]]) -> tuple[list[Cells], list[int]]:
    """What our parsers take of rows by line, user and profile, and the lines of the others."""
    good, bad = [], []
    for number, user, profile in rows:
        try:
            good.append((number, parse_id(user), parse_text(profile)))
        except ValueError:
            bad.append(number)
    return good, bad


def holds_lines_of_cells(rows: Sequence[Sequence[str]], delimiter: str) -> bool:
    """Whether a cell looks as if its quote had taken in other rows."""
    cells = (cell for row in rows for cell in row if delimiter in cell)
    return any("\n" in cell or "\r" in cell for cell in cells)


@FEW_OR_MANY
def test_table_that_was_written_as_csv_is_read_as_it_was(how):
    usual = {
        "delimiter": ",",
        "end": "\n",
        "quoting": csv.QUOTE_ALL,
        "mark": "utf-8",
        "packs": False,
    }

    @example(rows=[("\ufeffa", "b")], block_bytes=7, **usual)
    def check(rows, delimiter, end, quoting, mark, block_bytes, packs):
        text = written(rows, delimiter, end, quoting)
        data, file = text.encode(mark), "users.csv.gz" if packs else "users.csv"
        found = read(file, gzip.compress(data) if packs else data, block_bytes, delimiter=delimiter)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        number, numbered = 1, []
        for cells in reader:
            numbered.append((number, *cells))
            number = reader.line_num + 1
        assert [each[1:] for each in numbered[1:]] == [tuple(row) for row in rows]
        if holds_lines_of_cells(rows, delimiter) and delimiter == "\t":
            return  # quotes may be plain characters
        if isinstance(found, DataError):
            assert (found.code, holds_lines_of_cells(rows, delimiter)) == ("open_quote", True)
            return
        good, bad = judged(iter(numbered[1:]))
        assert cells_of(found) == good
        assert [each.line for each in found.findings] == bad
        assert all(each.reason.split()[0] in COLUMNS for each in found.findings)

    examples(
        how,
        check,
        rows=ROWS,
        delimiter=st.sampled_from(",;\t|"),
        end=st.sampled_from(["\n", "\r\n"]),
        quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
        mark=st.sampled_from(["utf-8", "utf-8-sig"]),
        block_bytes=BLOCKS,
        packs=st.booleans(),
    )


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
def test_any_bytes_are_read_as_csv_as_python_reads_them_or_refused(how):
    @example(data=b"a" * 140_000 + b",x\nb,y\n", tabs=False, has_header=True, block_bytes=7)
    def check(data, tabs, has_header, block_bytes):
        delimiter, file = ("\t", "x.tsv") if tabs else (",", "x.csv")
        data = delimiter.join(COLUMNS).encode() + b"\n" + data if has_header else data
        found = read(file, data, block_bytes)
        if isinstance(found, DataError):
            if found.code == "open_quote":
                assert b'"' in data
            elif has_header:
                pytest.fail(str(found))
            return
        if tabs and b'"' in data:  # quotes may be plain characters
            return
        (_, header), *rows = records(data, delimiter)
        wanted = [header.index(name) for name in COLUMNS]
        whole = [(n, cells) for n, cells in rows if cells != []]
        lines = [
            (n, *(cells[at] for at in wanted))
            for n, cells in whole
            if cells and len(cells) == len(header)
        ]
        good, bad = judged(iter(lines))
        assert cells_of(found) == good
        broken = [n for n, cells in whole if not cells or len(cells) != len(header)]
        assert sorted(each.line for each in found.findings) == sorted([*bad, *broken])

    drawn = {"data": BYTES, "tabs": st.booleans(), "has_header": st.booleans()}
    examples(how, check, block_bytes=BLOCKS, **drawn)


VALUES = JSON | TEXTS | st.lists(TEXTS, max_size=3) | st.sampled_from(["\ud800", 10**30])
NAMES = st.sampled_from([*COLUMNS, "other"])
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=3) | st.fixed_dictionaries(
    {"user_id": TEXTS | st.integers(), "profile": TEXTS}
)


TWO_IN_A_LINE = st.tuples(OBJECTS, OBJECTS).map(lambda two: " ".join(map(json.dumps, two)))
COMPACT = OBJECTS.map(lambda each: json.dumps(each, ensure_ascii=False, separators=(",", ":")))
LINES = st.lists((OBJECTS | VALUES).map(json.dumps) | COMPACT | TWO_IN_A_LINE | TEXTS, max_size=8)


@FEW_OR_MANY
def test_any_lines_of_json_are_read_as_python_reads_them_or_refused(how):
    deep = ["[" * 100_000, '{"user_id": 1, "profile": "a\u2028b"}']

    @example(lines=deep, end="\n", is_ended=True, block_bytes=1)
    def check(lines, end, is_ended, block_bytes):
        text = end.join(lines) + (end if is_ended else "")
        data = text.encode("utf-8", "surrogatepass")
        found = read("x.jsonl", data, block_bytes)
        whole, broken = [], []
        text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except (ValueError, RecursionError):
                values = None
            if isinstance(values, dict):
                whole.append((number, values))
            else:
                broken.append(number)
        if isinstance(found, DataError):
            assert found.code == "missing_column"
            return
        has_both = [(n, each) for n, each in whole if COLUMNS.keys() <= each.keys()]
        good, bad = judged((n, each["user_id"], each["profile"]) for n, each in has_both)
        assert cells_of(found) == good
        lacking = [n for n, each in whole if not COLUMNS.keys() <= each.keys()]
        assert [each.line for each in found.findings] == sorted([*bad, *broken, *lacking])

    ends = st.sampled_from(["\n", "\r\n"])
    examples(how, check, lines=LINES, end=ends, is_ended=st.booleans(), block_bytes=BLOCKS)


@FEW_OR_MANY
def test_any_bytes_are_read_as_json_lines_or_refused_whatever_the_blocks(how):
    marked = b'\n\xef\xbb\xbf{"user_id": "a", "profile": "b"}\n'

    @example(data=marked, block_bytes=1, name="x.jsonl")
    def check(data, block_bytes, name):
        found, other = (read(name, data, size) for size in (block_bytes, 1))
        if isinstance(found, FileRows) and isinstance(other, FileRows):
            assert cells_of(found) == cells_of(other)
            assert found.findings == other.findings

    names = st.sampled_from(["x.jsonl", "x.json.gz", "x.parquet"])
    examples(how, check, data=BYTES, block_bytes=BLOCKS, name=names)


@FEW_OR_MANY
def test_any_cell_is_taken_or_refused_with_a_reason(how):
    def check(value, digits):
        for cell in (value, "7" * digits, f"{value}-01-02 {digits}"):
            reasons = [reason(parse, cell) for parse in PARSERS]
            assert all(each.startswith("must ") for each in reasons if each)

    examples(how, check, value=VALUES, digits=st.integers(0, 5000))
