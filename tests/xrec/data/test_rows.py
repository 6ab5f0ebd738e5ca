"""The rows of a file: cells, line numbers, broken lines, missing columns, quotes."""

import io
import json
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.errors import raises
from xrec import schemas
from xrec.data.findings import (
    Finding,
    check_rejected_share,
    count_findings,
    count_reasons,
    rejected_table,
)
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


@pytest.mark.parametrize(
    ("parser", "values"),
    [
        (parse_id, {"Ann Ö.": "Ann Ö.", 7: "7", " 7": " 7"}),
        (parse_text, {"  a\nb ": "a\nb", None: ""}),
        (parse_text, {"It&#39;s<br />\n<b>warm</b>": "It's warm", "caf&eacute; &#233;": "café é"}),
        (
            parse_text,
            {"&amp;quot;A&amp;quot;": '"A"', "R&D, a < b, <3 &not": "R&D, a < b, <3 &not"},
        ),
        (parse_description, {5: "5", 2.5: "2.5", float("nan"): "", Decimal("9.90"): "9.90"}),
        (parse_description, {date(2026, 11, 26): "2026-11-26", (): ""}),
        (parse_description, {("tea", "", 5, None, " cake"): "tea, 5, cake"}),
        (parse_split, {"validation": "validation", "": None, None: None}),
    ],
)
def test_parser_returns_a_valid_value(parser, values):
    assert {value: parser(value) for value in values} == values


@pytest.mark.parametrize(
    ("parser", "values"),
    [
        (parse_id, ["", None, 1.0, True, "\udcff"]),
        (parse_text, [5, ["a"], "\udcff"]),
        (parse_description, [{"a": 1}, ["a", {"b": 1}], ["\udcff"]]),
        (parse_split, ["training", 1]),
    ],
)
def test_parser_refuses_a_value_with_a_reason(parser, values):
    for value in values:
        with pytest.raises(ValueError, match=r"^must "):
            parser(value)


def _read(file: str, data: bytes, *columns: Mapping[str, Parser]) -> FileRows:
    return joined_rows(stream_rows(file, io.BytesIO(data), *columns or (COLUMNS,)))


def _problems(rows: FileRows) -> list[tuple[int, str]]:
    return [(finding.line, finding.reason) for finding in rows.findings]


def _parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def test_csv_broken_lines_become_findings():
    data = b"user_id,profile\na,hi\nb\nc,x,y\n,empty\nd,\xff\ne," + b"x" * 200_000
    rows = _read("users.csv", data + b'\n"Great" one,b\nf,end\n')
    lines = {"line": [2, 9], "user_id": ["a", "f"], "profile": ["hi", "end"]}
    assert {name: rows.table[name].to_pylist() for name in lines} == lines
    assert _problems(rows) == [
        (3, "expected 2 columns, saw 1"),
        (4, "expected 2 columns, saw 3"),
        (5, "user_id must not be empty"),
        (6, "profile must be valid UTF-8"),
        (7, "not readable as CSV: field larger than field limit (131072)"),
        (8, "not readable as CSV: ',' expected after '\"'"),
    ]
    assert [each.text for each in rows.findings[1::4]] == ["c,x,y", '"Great" one,b']
    assert rows.num_rows == 8


@pytest.mark.parametrize(
    ("profile", "encoding", "expected"),
    [
        (b"\xd6l \x96 \x80", "cp1252", "Öl – €"),
        ("Öl – €".encode(), "cp1252", "Öl – €"),  # UTF-8 is read as it is
        (b"\xcf\xf0\xe8", "cp1251", "При"),
        (b"\xd6l", None, None),
        (b"\x81", "cp1252", None),  # not a letter of cp1252
        (b"\xc3\x96l \xd6l", "cp1252", None),  # part of it is UTF-8, so all of it must be
    ],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_lines_that_are_not_utf8_are_read_in_their_encoding(profile, encoding, expected, ending):
    rows = b'{"user_id": "a", "profile": "%s"}' if ending == "jsonl" else b"user_id,profile\na,%s"
    source = io.BytesIO(rows % profile)
    found = joined_rows(stream_rows(f"users.{ending}", source, COLUMNS, encoding=encoding))
    assert found.table["profile"].to_pylist() == ([] if expected is None else [expected])
    reasons = [each.reason for each in found.findings]
    assert reasons == ["profile must be valid UTF-8"] * (expected is None)


def test_parquet_integer_ids_and_nulls_are_read():
    texts = pa.array([None, "x"], pa.large_string())
    rows = _read("users.parquet", _parquet(user_id=pa.array([5, None], pa.int64()), profile=texts))
    assert rows.table.to_pylist() == [{"user_id": "5", "profile": "", "line": 1}]
    assert _problems(rows) == [(2, "user_id must be a string or an integer")]


@pytest.mark.parametrize("block_bytes", [1, 180, 1 << 20])
@pytest.mark.parametrize("is_escaped", [True, False])
def test_optional_column_that_few_rows_have_is_read_however_json_spells_it(is_escaped, block_bytes):
    rows = [{"user_id": "1", "profile": "tea"}] * 8 + [{"user_id": "2", "profile": "a", "é": "x"}]
    lines = (json.dumps(row, ensure_ascii=is_escaped) + "\n" for row in rows)
    data, optional = "".join(lines).encode(), {"é": parse_text}
    parts = stream_rows("x.jsonl", io.BytesIO(data), COLUMNS, optional, block_bytes=block_bytes)
    assert joined_rows(parts).table["é"].to_pylist() == [*[None] * 8, "x"]


SEEN = ("userid", "profile")
NO_UTF8 = _parquet(user_id=pa.array([b"\xff"]).view(pa.string()), profile=["x"])


@pytest.mark.parametrize(
    ("file", "data", "code", "key", "saw"),
    [
        ("x.parquet", b"user_id,profile\n", "broken_file", "x.parquet", None),
        ("x.csv", b"userid,profile\na,b\n", "missing_column", "user_id", SEEN),
        ("x.jsonl", b'{"userid": 1, "profile": ""}\n', "missing_column", "user_id", SEEN),
        ("x.parquet", _parquet(userid=["a"], profile=["b"]), "missing_column", "user_id", SEEN),
        ("x.parquet", NO_UTF8, "unreadable_value", "user_id", None),
        ("x.csv", b"", "missing_column", "user_id", ()),
        ("x.csv", b"user_id,x,x\n", "repeated_column", "x.csv", ("x",)),
        ("x.csv", b'"user" id,profile\n', "broken_header", "x.csv", None),
        ("x.csv.gz", b"user_id,profile\n", "broken_file", "x.csv.gz", None),
    ],
)
def test_unreadable_file_is_refused(file, data, code, key, saw):
    with raises(DataError, code, key, saw):
        _read(file, data)


def _cells(text: str, delimiter: str = ",") -> list[list[str | None]]:
    """The cells of the rows of `text`; all of them can be read."""
    names = text.split("\n", 1)[0].strip().replace('"', "").split(delimiter)
    data, columns = io.BytesIO(text.encode()), dict.fromkeys(names, parse_text)
    rows = joined_rows(stream_rows("pairs.csv", data, columns, delimiter=delimiter))
    assert rows.findings == ()
    return [list(row.values()) for row in rows.table.select(names).to_pylist()]


def _table(num_rows: int, changed: dict[int, str], delimiter: str = ",") -> str:
    """`user, item, review`; `changed` has the review of some rows, by line number."""
    rows = [[f"u{line}", f"i{line}", changed.get(line, "fine")] for line in range(2, num_rows + 2)]
    return "".join(delimiter.join(row) + "\n" for row in [["user", "item", "review"], *rows])


OPEN = '"never closed'
OTHER_COLUMN = 'user,item,review\nu,i,fine\nu,i,"open\nu,i,well, or not\nu",i,fine\nu,i,fine\n'
HEADED = '"user"\t"item"\n"u"\t"i"\n"u"\t"i\n"u"\t"i"\n'


@pytest.mark.parametrize(
    ("text", "delimiter", "line"),
    [
        *(
            (_table(40, {6: OPEN, line: later}), ",", 6)
            for later in ("fine", 'he said "hi" to me', 'a size of 5"', '"quoted"')
            for line in (7, 30)
        ),
        (OTHER_COLUMN, ",", 3),
        ('user,item\nu,i\nu,"i\n', ",", 3),
        (_table(40, {3: '"two\nlines"', 20: OPEN}, "\t"), "\t", 21),
        (HEADED, "\t", 3),
    ],
)
def test_unclosed_quote_is_refused_with_its_line(text, delimiter, line):
    with raises(DataError, "open_quote", "pairs.csv", line):
        _cells(text, delimiter)


def test_tsv_quoted_cells_of_several_lines_are_read():
    text = 'Good.\nWarm, cheap, loud\n\nand, as he said, "here"'
    quoted = '"' + text.replace('"', '""') + '"'
    rows = [["u", "i", quoted], ["u", quoted, "x"], ["u", "i", "x"], ['"two\nlines"', "i", "x"]]
    written = ["\t".join(row) + "\r\n" for row in [["user", "item", "review"], *rows]]
    plain = {quoted: text, '"two\nlines"': "two\nlines"}
    expected = [[plain.get(cell, cell) for cell in row] for row in rows]
    assert _cells("".join(written), "\t") == expected


@pytest.mark.parametrize("num_rows", [40, 20_000])
def test_tsv_without_quoted_cells_keeps_quotes_rows_and_line_numbers(num_rows):
    changed = {5: '"fine"', 6: OPEN, 7: '"Great"', 8: "too\tlong", 9: 'so "good"'}
    text = _table(num_rows, changed, "\t").encode()
    rows = _read("pairs.tsv", text, dict.fromkeys(("user", "item", "review"), parse_text))
    assert rows.table["line"].to_pylist() == [n for n in range(2, num_rows + 2) if n != 8]
    assert rows.table["review"][4:7].to_pylist() == [OPEN, changed[7], changed[9]]
    assert _problems(rows) == [(8, "expected 3 columns, saw 4")]


FINDINGS = [Finding("a.csv", line, "worse" if line == 3 else "bad", "y,z") for line in (9, 3, 12)]


def test_findings_are_counted_and_listed_with_a_cut_valid_text():
    assert count_reasons(count_findings(FINDINGS)) == {"a.csv: bad": 2, "a.csv: worse": 1}
    table = rejected_table([Finding("a.csv", 3, "bad", "\udcff" + "x" * 1000)])
    assert table.schema.equals(schemas.REJECTED)
    assert table["text"].to_pylist() == ["?" + "x" * 119]


def test_rejected_share_over_the_threshold_of_one_file_is_refused():
    rejected = count_findings(FINDINGS)
    check_rejected_share(rejected, {"a.csv": 300}, 0.01, "/data")
    with raises(DataError, "too_many_rejected", "a.csv", 3) as caught:
        check_rejected_share(rejected, {"b.csv": 100_000, "a.csv": 299}, 0.01, "/data/")
    for part in ("/data/a.csv", "line 3: worse: 'y,z'", "2 x bad"):
        assert part in str(caught.value)
