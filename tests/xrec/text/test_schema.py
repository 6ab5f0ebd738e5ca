"""Replies as language models write them, and the objects that are in them."""

import json

import pytest
from pydantic import BaseModel, Field

from xrec.text.schema import parse_reply, strict_schema


class Aspect(BaseModel):
    aspect: str
    sentiment: str


class Review(BaseModel):
    text: str = Field(max_length=40)
    aspects: list[Aspect]


RIGHT = {"text": "Good strings.", "aspects": [{"aspect": "tone", "sentiment": "positive"}]}


@pytest.mark.parametrize("with_lengths", [False, True])
def test_strict_schema_bounds_strings_only_where_it_is_told_to(with_lengths):
    schema = strict_schema(Review, with_lengths=with_lengths)
    assert schema["required"] == ["text", "aspects"]
    assert schema["$defs"]["Aspect"]["additionalProperties"] is False
    assert ("maxLength" in schema["properties"]["text"]) == with_lengths


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(RIGHT),
        f"<think>{{no}} one moment</think>\n{json.dumps(RIGHT)}",
        f"Here you are:\n```json\n{json.dumps(RIGHT, indent=1)}\n```\nAnything else?",
        json.dumps(RIGHT).replace('"', "'"),
        json.dumps(RIGHT)[:-1],
        json.dumps(RIGHT).replace("}]", "},]"),
        f"[{json.dumps(RIGHT)}]",
    ],
    ids=["whole", "thoughts", "fenced", "single quotes", "no end", "comma", "in a list"],
)
def test_parse_reply_with_an_object_in_it_gives_the_object(text):
    assert parse_reply(text, Review) == Review.model_validate(RIGHT)


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
        (r'{"text": "Good \ud800", "aspects": []}', "invalid_object"),
    ],
)
def test_parse_reply_without_a_valid_object_says_why(text, reason):
    failure = parse_reply(text, Review)
    assert failure.reason == reason
    assert failure.message
    assert "Good" not in failure.message  # nothing of the reply


def test_parse_reply_with_control_characters_in_a_string_has_blanks_there():
    found = parse_reply('{"text": "Good\x17strings.\n", \n"aspects": []}', Review)
    assert found == Review(text="Good strings. ", aspects=[])


def test_parse_reply_that_was_cut_off_is_not_mended():
    whole = json.dumps(RIGHT)
    cut = parse_reply(whole[: whole.index("strings") + 3], Review, is_cut=True)
    assert cut.reason == "cut_off"
    assert isinstance(parse_reply(whole, Review, is_cut=True), Review)
