"""Replies as language models write them, and the objects that are in them."""

import json

import pytest
from pydantic import BaseModel, Field

from xrec.text.parse import parse_reply


class Aspect(BaseModel):
    """A part of a reply."""

    aspect: str
    sentiment: str


class Review(BaseModel):
    """A reply."""

    text: str = Field(max_length=40)
    aspects: list[Aspect]


RIGHT = {"text": "Good strings.", "aspects": [{"aspect": "tone", "sentiment": "positive"}]}


@pytest.mark.parametrize(
    ("text", "was_repaired"),
    [
        (json.dumps(RIGHT), False),
        (f"<think>{{no}} one moment</think>\n{json.dumps(RIGHT)}", False),
        (f"Here you are:\n```json\n{json.dumps(RIGHT, indent=1)}\n```\nAnything else?", True),
        (json.dumps(RIGHT).replace('"', "'"), True),
        (json.dumps(RIGHT)[:-1], True),
        (json.dumps(RIGHT).replace("}]", "},]"), True),
        (f"[{json.dumps(RIGHT)}]", True),
    ],
    ids=["whole", "thoughts", "fenced", "single quotes", "no end", "comma", "in a list"],
)
def test_parse_reply_with_an_object_in_it_gives_the_object(text: str, was_repaired: bool) -> None:
    parsed = parse_reply(text, Review)
    assert parsed.failure is None
    assert parsed.value is not None
    assert parsed.value.model_dump() == RIGHT
    assert parsed.was_repaired == was_repaired


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty_reply"),
        ("<think>hm</think>  ", "empty_reply"),
        ("I would rather not say.", "invalid_json"),
        ("[" * 5000, "invalid_json"),
        ('{"text": "Good strings."}', "invalid_object"),
        ('{"text": "Good strings.", "aspects": "tone"}', "invalid_object"),
        (json.dumps({**RIGHT, "text": "long " * 20}), "invalid_object"),
    ],
)
def test_parse_reply_without_a_valid_object_says_why(text: str, reason: str) -> None:
    parsed = parse_reply(text, Review)
    assert parsed.value is None
    assert parsed.failure is not None
    assert parsed.failure.reason == reason
    assert parsed.failure.message


def test_parse_reply_with_control_characters_in_a_string_has_blanks_there() -> None:
    parsed = parse_reply('{"text": "Good\x17strings.\n", \n"aspects": []}', Review)
    assert parsed.value == Review(text="Good strings. ", aspects=[])
    assert not parsed.was_repaired


def test_parse_reply_with_half_a_character_is_not_valid() -> None:
    parsed = parse_reply(r'{"text": "Good \ud800", "aspects": []}', Review)
    assert parsed.value is None


def test_parse_reply_that_was_cut_off_is_not_mended() -> None:
    whole = json.dumps(RIGHT)
    cut = parse_reply(whole[: whole.index("strings") + 3], Review, is_cut=True)
    assert cut.failure is not None
    assert cut.failure.reason == "cut_off"
    assert parse_reply(whole, Review, is_cut=True).value is not None


def test_parse_reply_failure_does_not_repeat_the_reply() -> None:
    parsed = parse_reply('{"text": "secret words", "aspects": 3}', Review)
    assert parsed.failure is not None
    assert "secret" not in parsed.failure.message
    assert "aspects" in parsed.failure.message
