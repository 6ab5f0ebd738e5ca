"""What is not valid is asked for again once; equal prompts once, also after a kill.

Replies as language models write them, and the objects that are in them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from tests.errors import raises
from tests.world.endpoint import COST, LONG, ScriptedModel
from tests.xrec.text.asked import Said, prompts, replies_in
from xrec.config import SamplingConfig
from xrec.errors import BudgetError, EndpointError, Failure
from xrec.text import Asker, Prompt, Reply, Usage, ask, parse_reply
from xrec.text.messages import strict_schema

SAMPLING = SamplingConfig(max_tokens=2)


class Scripted(ScriptedModel):
    """Says the next text of a word's list, else the word of the prompt."""

    def __init__(self, texts: Mapping[str, Sequence[str]] = {}, dies_after: int | None = None):
        left = {word: list(each) for word, each in texts.items()}

        def answer(prompt: Prompt[Any], _: SamplingConfig) -> str:
            if len(self.asked) == dies_after:
                raise KeyboardInterrupt
            word = prompt.messages[0].content
            return left[word].pop(0) if left.get(word) else f'{{"word": "{word}"}}'

        super().__init__(answer)


def _asked(model: Scripted, number: int) -> list[Reply[Said]]:
    replies = sorted(ask(model, prompts(number), SAMPLING), key=lambda reply: reply.index)
    assert [reply.index for reply in replies] == list(range(number))
    return replies


def _words(replies: Sequence[Reply[Said]]) -> list[str | None]:
    return [reply.value.word if reply.value else None for reply in replies]


@pytest.mark.parametrize(
    ("first", "words"), [('{"no": 1}', "word: Field required"), (LONG, "it is too long")]
)
def test_ask_again_shows_the_reply_and_what_is_wrong_and_changes_the_seed(first, words):
    model = Scripted({"word-0": [first, '{"word": "a"}'], "word-1": ["{'word': 'b'"]})
    replies = _asked(model, 2)
    assert _words(replies) == ["a", "b"]
    assert [reply.usage for reply in replies] == [COST + COST, COST]
    second, _ = model.asked[-1]
    assert second.seed == model.asked[0][0].seed + 1
    assert [message.role for message in second.messages] == ["user", "assistant", "user"]
    assert second.messages[1].content == first
    assert words in second.messages[2].content


def test_ask_twice_without_a_valid_reply_fails_and_an_endpoints_failure_is_not_asked_again():
    model = Scripted({"word-0": ["no", "never"], "word-2": ["late"]})
    replies = _asked(model, 3)
    assert _words(replies) == [None, "word-1", None]
    assert replies[0].failure == Failure("invalid_json", "the reply contains no JSON object")
    assert replies[0].raw == "never"
    assert replies[2].failure == Failure("timeout", "late")
    assert [reply.usage.num_requests for reply in replies] == [2, 1, 1]
    assert len(model.asked) == 4


def _asker(model: Scripted, folder: Path, max_tokens: float = 1e9) -> Asker:
    return Asker(model, SAMPLING, replies_in(folder), max_tokens)


def test_asker_asks_equal_prompts_once_and_counts_their_cost_once(tmp_path):
    model = Scripted()
    one, other = prompts(2)
    replies = _asker(model, tmp_path).ask([one, one, other, one])  # in flight, and stored
    assert [reply.index for reply in replies] == [0, 1, 2, 3]
    assert _words(replies) == ["word-0", "word-0", "word-1", "word-0"]
    assert sorted(model.words) == ["word-0", "word-1"]
    assert [reply.usage for reply in replies] == [COST, Usage(), COST, Usage()]


def test_asker_of_a_killed_process_leaves_its_replies_to_the_next_one(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        _asker(Scripted(dies_after=3), tmp_path).ask(prompts(5))
    model = Scripted()
    replies = _asker(model, tmp_path).ask(prompts(5))
    assert sorted(model.words) == ["word-2", "word-4"]
    assert _words(replies) == [f"word-{place}" for place in range(5)]
    assert [reply.usage for reply in replies] == [COST] * 5


def test_asker_asks_again_without_a_reply(tmp_path):
    first = _asker(Scripted({"word-0": ["no", "no"], "word-1": ["late"]}), tmp_path).ask(prompts(3))
    reasons = [reply.failure and reply.failure.reason for reply in first]
    assert reasons == ["invalid_json", "timeout", None]
    model = Scripted()
    second = _asker(model, tmp_path).ask(prompts(3))
    assert model.words == ["word-1"]
    assert _words(second) == [None, "word-1", "word-2"]


def test_asker_stops_at_a_model_that_refuses_all_of_its_first_prompts(tmp_path):
    refusals = {f"word-{place}": ["refused"] for place in range(1, 30)}
    model = Scripted(refusals | {"word-0": ["refused"]})
    with raises(EndpointError, "all_refused", "model", 8) as raised:
        _asker(model, tmp_path).ask(prompts(30))
    assert "400 no such model" in str(raised.value)
    assert len(model.asked) == 8
    replies = _asker(Scripted(refusals), tmp_path).ask(prompts(30))
    assert [reply.failure is None for reply in replies] == [True] + [False] * 29


@pytest.mark.parametrize("texts", [{}, {"word-1": ["no", "never"]}])
def test_asker_stops_at_its_tokens_and_an_earlier_process_s_replies_count(tmp_path, texts):
    """A reply costs 12 tokens; one that cannot be used does too."""
    model = Scripted(texts)
    with raises(BudgetError, "budget_used_up", "budget.tokens", 24):
        _asker(model, tmp_path, max_tokens=20).ask(prompts(5))
    assert model.words == ["word-1", "word-0"]
    model = Scripted()
    with raises(BudgetError, "budget_used_up", saw=24):
        _asker(model, tmp_path, max_tokens=12).ask(prompts(5))
    assert model.words == []
    replies = _asker(model, tmp_path, max_tokens=73).ask(prompts(5))
    assert _words(replies) == [f"word-{place}" for place in range(5)]


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
        json.dumps(RIGHT).replace("}]", "},]"),
        f"[{json.dumps(RIGHT)}]",
        json.dumps(RIGHT).replace("Good ", "Good\x17"),
    ],
)
def test_parse_reply_with_an_object_in_it_gives_the_object(text):
    assert parse_reply(text, Review) == Review.model_validate(RIGHT)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty_reply"),
        ("I would rather not say.", "invalid_json"),
        ("[" * 5000, "invalid_json"),
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


def test_parse_reply_that_was_cut_off_is_not_mended():
    whole = json.dumps(RIGHT)
    cut = parse_reply(whole[: whole.index("strings") + 3], Review, is_cut=True)
    assert cut.reason == "cut_off"
    assert isinstance(parse_reply(whole, Review, is_cut=True), Review)
