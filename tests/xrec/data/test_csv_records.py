"""Quotes in CSV and TSV files: those that add up, those that do not, and no row is swallowed."""

import io

import pytest

from xrec.data.csv_records import csv_records
from xrec.data.lines import read_lines
from xrec.errors import DataError


def _cells(text: str, delimiter: str = ",") -> list[list[str]]:
    lines = io.StringIO(text, newline="")
    return [list(record.cells) for record in csv_records("pairs.csv", lines, delimiter)]


def _table(num_rows: int, changed: dict[int, str], delimiter: str = ",") -> str:
    """`user, item, review`; `changed` has the review of some rows, by line number."""
    rows = [[f"u{line}", f"i{line}", changed.get(line, "fine")] for line in range(2, num_rows + 2)]
    return "".join(delimiter.join(row) + "\n" for row in [["user", "item", "review"], *rows])


@pytest.mark.parametrize("num_rows", [40, 20_000])
def test_csv_cell_whose_quote_does_not_end_is_refused_with_its_line(num_rows: int) -> None:
    with pytest.raises(DataError, match=r"pairs.csv: line 6: a quote opens a cell"):
        _cells(_table(num_rows, {6: '"never closed'}))


@pytest.mark.parametrize("later", ['he said "hi" to me', 'a size of 5"', '"quoted"'])
@pytest.mark.parametrize("line", [7, 9, 30])
def test_csv_cell_that_a_later_quote_ends_is_refused_with_its_line(later: str, line: int) -> None:
    with pytest.raises(DataError, match="line 6: a quote opens a cell"):
        _cells(_table(40, {6: '"never closed', line: later}))


def test_csv_cell_that_a_later_quote_in_another_column_ends_is_refused() -> None:
    text = 'user,item,review\nu,i,fine\nu,i,"open\nu,i,well, or not\nu",i,fine\nu,i,fine\n'
    with pytest.raises(DataError, match="line 3: a quote opens a cell"):
        _cells(text)


def test_csv_last_cell_cut_within_quotes_is_refused() -> None:
    with pytest.raises(DataError, match=r"line 3: .*saw none"):
        _cells('user,item\nu,i\nu,"i\n')


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_quoted_cells_of_several_lines_are_read(delimiter: str) -> None:
    text = 'Good.\nWarm, cheap, loud\n\nand, as he said, "here"'
    quoted = '"' + text.replace('"', '""') + '"'
    rows = [["user", "item", "review"], ["u", "i", quoted], ["u", quoted, "x"], ["u", "i", "x"]]
    written = "".join(delimiter.join(row) + "\r\n" for row in rows)
    assert _cells(written, delimiter) == [
        ["user", "item", "review"],
        ["u", "i", text],
        ["u", text, "x"],
        ["u", "i", "x"],
    ]


def test_csv_text_after_a_closing_quote_on_one_line_is_a_finding_and_the_rest_is_read() -> None:
    lines = read_lines("pairs.csv", _table(4, {3: '"Great" product'}).encode()).rows
    assert [line.problem for line in lines] == [
        "",
        "not readable as CSV: ',' expected after '\"'",
        "",
        "",
    ]


@pytest.mark.parametrize("num_rows", [40, 20_000])
@pytest.mark.parametrize("changed", [{}, {9: 'so "good"'}, {20: 'a size of 5"'}, {7: '"Great"'}])
def test_tsv_without_quoted_cells_keeps_quotes_and_rows(
    num_rows: int, changed: dict[int, str]
) -> None:
    changed = {5: '"fine"', 6: '"never closed', **changed}
    cells = _cells(_table(num_rows, changed, "\t"), "\t")
    assert len(cells) == num_rows + 1
    assert [row[2] for row in cells[5:10]] == [changed.get(line, "fine") for line in range(6, 11)]


def test_tsv_line_numbers_go_on_where_quotes_become_plain() -> None:
    text = _table(10, {6: '"never closed', 8: "too\tlong"}, "\t")
    rows = read_lines("pairs.tsv", text.encode()).rows
    assert [row.number for row in rows] == list(range(2, 12))
    assert [row.number for row in rows if row.problem] == [8]


@pytest.mark.parametrize("cell", ['"two\nlines"', '"a\ttab"', '"a ""word"""'])
def test_tsv_with_quoted_cells_and_one_that_does_not_end_is_refused(cell: str) -> None:
    with pytest.raises(DataError, match="a quote opens a cell"):
        _cells(_table(40, {3: cell, 20: '"never closed'}, "\t"), "\t")


def test_tsv_with_a_quoted_header_and_a_cell_that_does_not_end_is_refused() -> None:
    with pytest.raises(DataError, match="line 3: a quote opens a cell"):
        _cells('"user"\t"item"\n"u"\t"i"\n"u"\t"i\n"u"\t"i"\n', "\t")


def test_csv_column_that_is_there_twice_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"users.csv: more than one column is called 'profile'"):
        read_lines("users.csv", b"user_id,profile,profile\na,b,c\n")
    assert read_lines("users.csv", b"user_id,,\na,b,c\n").rows[0].problem == ""


def test_csv_header_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(DataError, match="line 1, the header, is not readable as CSV"):
        read_lines("users.csv", b'"user" id,profile\na,b\n')
