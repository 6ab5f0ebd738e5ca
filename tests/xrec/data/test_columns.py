"""Cells: what each parser accepts and what it refuses."""

from datetime import date
from decimal import Decimal

import pytest

from xrec.data.columns import (
    Parser,
    parse_dense_id,
    parse_description,
    parse_id,
    parse_rating,
    parse_split,
    parse_text,
)


@pytest.mark.parametrize(
    ("parser", "value", "expected"),
    [
        (parse_id, "Ann Ö.", "Ann Ö."),
        (parse_id, 7, "7"),
        (parse_id, " 7", " 7"),
        (parse_dense_id, "007", "7"),
        (parse_dense_id, 0, "0"),
        (parse_dense_id, str(2**31 - 1), "2147483647"),
        (parse_text, "  a\nb ", "a\nb"),
        (parse_text, None, ""),
        (parse_description, 5, "5"),
        (parse_description, 2.5, "2.5"),
        (parse_description, float("nan"), ""),
        (parse_description, Decimal("9.90"), "9.90"),
        (parse_description, date(2026, 11, 26), "2026-11-26"),
        (parse_description, ["tea", "", 5, None, " cake"], "tea, 5, cake"),
        (parse_description, [], ""),
        (parse_split, "validation", "validation"),
        (parse_split, "", None),
        (parse_split, None, None),
        (parse_rating, Decimal("4.5"), "4.5"),
        (parse_rating, 3, "3.0"),
        (parse_rating, Decimal("NaN"), None),
        (parse_rating, "nan", None),
        (parse_rating, True, None),
    ],
)
def test_parser_valid_value_is_returned(
    parser: Parser, value: object, expected: str | None
) -> None:
    assert parser(value) == expected


@pytest.mark.parametrize(
    ("parser", "value"),
    [
        (parse_id, ""),
        (parse_id, None),
        (parse_id, 1.0),
        (parse_id, True),
        (parse_id, "\udcff"),
        (parse_dense_id, "-1"),
        (parse_dense_id, -1),
        (parse_dense_id, "1.0"),
        (parse_dense_id, "x"),
        (parse_dense_id, "²"),
        (parse_dense_id, True),
        (parse_dense_id, None),
        (parse_dense_id, str(2**31)),
        (parse_text, 5),
        (parse_text, ["a"]),
        (parse_text, "\udcff"),
        (parse_description, {"a": 1}),
        (parse_description, ["a", {"b": 1}]),
        (parse_description, ["\udcff"]),
        (parse_split, "training"),
        (parse_split, 1),
    ],
)
def test_parser_invalid_value_raises_value_error(parser: Parser, value: object) -> None:
    with pytest.raises(ValueError, match="must"):
        parser(value)
