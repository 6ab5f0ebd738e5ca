"""Rows in columns."""

from xrec.cli.text_table import text_table


def test_text_table_aligns_columns_and_pads_no_line_end() -> None:
    assert (
        text_table(("id", "what"), [("a", "one"), ("long", "a b")])
        == "id    what\na     one\nlong  a b"
    )


def test_text_table_without_rows_is_the_header() -> None:
    assert text_table(("id", "what"), []) == "id  what"
