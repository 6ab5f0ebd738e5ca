"""Rows of a file: line numbers, broken lines, missing columns, for each format."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xrec.data.columns import parse_id, parse_split, parse_text
from xrec.data.rows import FileRows, read_rows, reject_duplicates
from xrec.errors import DataError

COLUMNS = {"user_id": parse_id, "profile": parse_text}


def _read(file: str, data: bytes) -> FileRows:
    return read_rows(file, data, COLUMNS)


def _rows(rows: FileRows) -> list[tuple[int, str, str]]:
    return [(row["line"], row["user_id"], row["profile"]) for row in rows.table.to_pylist()]


def _problems(rows: FileRows) -> list[tuple[int, str]]:
    return [(finding.line, finding.reason) for finding in rows.findings]


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def test_read_rows_csv_counts_lines_from_the_header_and_through_quoted_newlines() -> None:
    rows = _read("users.csv", b'profile,user_id,other\nhi,a,1\n"two\nlines, here",b,2\n\nend,c,3\n')
    assert _rows(rows) == [(2, "a", "hi"), (3, "b", "two\nlines, here"), (6, "c", "end")]
    assert rows.num_rows == 3
    assert rows.findings == ()


def test_read_rows_csv_broken_lines_become_findings() -> None:
    rows = _read("users.csv", b"user_id,profile\na,hi\nb\nc,x,y\n,empty\nd,\xff\n")
    assert _rows(rows) == [(2, "a", "hi")]
    assert _problems(rows) == [
        (3, "expected 2 columns, saw 1"),
        (4, "expected 2 columns, saw 3"),
        (5, "user_id must not be empty"),
        (6, "profile must be valid UTF-8"),
    ]
    assert rows.findings[1].text == "c,x,y"
    assert rows.num_rows == 5


def test_read_rows_csv_field_beyond_the_limit_becomes_a_finding() -> None:
    rows = _read("users.csv", b"user_id,profile\na,hi\nb," + b"x" * 200_000 + b"\nc,end\n")
    assert [row[1] for row in _rows(rows)] == ["a", "c"]
    assert _problems(rows) == [(3, "not readable as CSV: field larger than field limit (131072)")]


def test_read_rows_csv_with_byte_order_mark_and_crlf_is_read() -> None:
    assert _rows(_read("users.csv", b"\xef\xbb\xbfuser_id,profile\r\na,hi\r\n")) == [(2, "a", "hi")]


def test_read_rows_json_lines_broken_lines_become_findings() -> None:
    lines = [
        '{"user_id": 1, "profile": "x\u2028y"}',
        "{broken",
        "[1]",
        '{"user_id": 2}',
        '{"user_id": 1.5, "profile": ""}',
        "",
        '{"user_id": "z", "profile": null}',
    ]
    rows = _read("users.jsonl", "\n".join(lines).encode())
    assert _rows(rows) == [(1, "1", "x\u2028y"), (7, "z", "")]
    assert _problems(rows) == [
        (2, "not valid JSON"),
        (3, "not a JSON object"),
        (4, "no value for profile"),
        (5, "user_id must be a string or an integer"),
    ]
    assert rows.num_rows == 6


def test_read_rows_json_lines_deeply_nested_line_becomes_a_finding() -> None:
    rows = _read(
        "users.jsonl", b"[" * 100_000 + b"\n" + json.dumps({"user_id": "a", "profile": ""}).encode()
    )
    assert _problems(rows) == [(1, "not valid JSON")]


def test_read_rows_parquet_integer_ids_and_nulls_are_read() -> None:
    table = pa.table(
        {
            "user_id": pa.array([5, None], pa.int64()),
            "profile": pa.array([None, "x"], pa.large_string()),
        }
    )
    rows = _read("users.parquet", _parquet(table))
    assert _rows(rows) == [(1, "5", "")]
    assert _problems(rows) == [(2, "user_id must be a string or an integer")]


def test_read_rows_parquet_not_parquet_raises_data_error() -> None:
    with pytest.raises(DataError, match=r"users\.parquet: not a readable Parquet file"):
        _read("users.parquet", b"user_id,profile\n")


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("users.csv", b"userid,profile\na,b\n"),
        ("users.jsonl", b'{"userid": 1, "profile": ""}\n'),
        ("users.parquet", _parquet(pa.table({"userid": ["a"], "profile": ["b"]}))),
    ],
)
def test_read_rows_missing_column_raises_naming_seen_and_expected(file: str, data: bytes) -> None:
    with pytest.raises(
        DataError,
        match=r"missing column\(s\) user_id; expected user_id, profile, saw 'userid', 'profile'",
    ):
        _read(file, data)


def test_read_rows_empty_csv_raises_data_error() -> None:
    with pytest.raises(DataError, match="saw none"):
        _read("users.csv", b"")


def test_read_rows_optional_column_missing_is_null() -> None:
    rows = read_rows("users.csv", b"user_id,profile\na,b\n", COLUMNS, {"split": parse_split})
    assert rows.table["split"].to_pylist() == [None]


def test_reject_duplicates_keeps_the_first_and_lists_the_others() -> None:
    rows = reject_duplicates(
        _read("users.csv", b"user_id,profile\na,1\nb,2\na,3\na,\n"), ["user_id"]
    )
    assert _rows(rows) == [(2, "a", "1"), (3, "b", "2")]
    assert _problems(rows) == [
        (4, "duplicate of an earlier user_id"),
        (5, "duplicate of an earlier user_id"),
    ]
