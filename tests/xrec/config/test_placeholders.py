"""Placeholders taken out of a prompt part."""

import pytest

from xrec.config.placeholders import without_placeholders


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("User: {user} {user_profile}", "User: {user}"),
        ("{user_profile} It is {user}.", " It is {user}."),
        ("{user}", "{user}"),
        ("{{as it is}} {user} {user_profile}", "{{as it is}} {user}"),
    ],
)
def test_without_placeholders_keeps_all_else(text: str, expected: str) -> None:
    assert without_placeholders(text, {"user_profile"}) == expected
