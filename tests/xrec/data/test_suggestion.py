"""The id that was probably meant."""

import pytest

from xrec.data.suggestion import suggest_id


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("anna_lena", "did you mean 'anna-lena'?"),
        ("zzzzzz", "an id that it holds: 'ann'"),
        ("last", "an id that it holds: 'ann'"),  # beyond what is searched
    ],
)
def test_suggest_id_names_a_close_id_else_an_example(wanted: str, expected: str) -> None:
    known = ["ann", "anna-lena", *map(str, range(20_000)), "last"]
    assert suggest_id(wanted, known) == expected
