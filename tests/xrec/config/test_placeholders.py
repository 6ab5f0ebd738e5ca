"""Where the placeholders of a prompt may stand, and how often."""

import pytest

from xrec.config.adapter import TrainAdapterConfig
from xrec.config.base import parse_config
from xrec.config.prompt import parse_placeholders, placeholder_names, without_placeholders
from xrec.errors import ConfigError

AT_THE_END = {
    "user": "User: {user_profile}",
    "item": "Item: {item_title}. {item_profile}",
    "collaborative": "{user}{item}",
}


def parse_prompt(**parts: str) -> TrainAdapterConfig:
    return parse_config(
        TrainAdapterConfig, {"workspace": "w", "llm": {"model": "m"}, "prompt": parts}
    )


def test_parse_placeholders_gives_literals_and_names_in_order() -> None:
    assert parse_placeholders("User: {user}.") == [("User: ", "user"), (".", None)]
    assert placeholder_names("{item} {user} {item}") == ["item", "user", "item"]
    assert parse_placeholders("") == placeholder_names("{{user}}") == []


@pytest.mark.parametrize(
    "parts",
    [
        {},
        AT_THE_END,
        {"user": "User: {user_profile}", "collaborative": "{user}"},  # the item's is in its part
        {"user": "{user_profile}", "item": "{item_title} {item} {user}"},
        {"user": "User {user}", "item": "{item_title}", "collaborative": "Item {item}"},
    ],
)
def test_prompt_parts_with_each_token_once_are_valid(parts: dict[str, str]) -> None:
    config = parse_prompt(**parts)
    assert parts.items() <= config.prompt.model_dump().items()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"user": "User: {user_profile}"},
            r"must hold \{user\} exactly once, saw it in no part; "
            r"put it into one of the parts user, item, collab",
        ),
        (
            {"collaborative": "{user}"},
            r"must hold \{user\} exactly once, saw it in user, collaborative",
        ),
        (
            {**AT_THE_END, "collaborative": "{user}{item}{item}"},
            r"must hold \{item\} exactly once, saw it in collaborative, collaborative",
        ),
        (
            {"user": "{user} {item}"},
            r"part 'user' holds \{item\}; allowed there: user, user_profile",
        ),
        ({"instruction": "Why {user}?"}, r"part 'instruction' holds \{user\}; allowed there: none"),
        (
            {**AT_THE_END, "collaborative": "{user}{item} {user_profile}"},
            r"part 'collaborative' holds \{user_profile\}; allowed there: user, item",
        ),
    ],
)
def test_prompt_parts_with_a_token_missing_doubled_or_misplaced_raise_config_error(
    parts: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_prompt(**parts)


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
