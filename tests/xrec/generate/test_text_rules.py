"""From generated text to explanation: whole sentences within the words, typed failures."""

from typing import Any

import pytest

from xrec.config.llm import DecodingConfig, TextConfig
from xrec.generate.engine import Completion, FinishReason
from xrec.generate.text_rules import finished_text

PROMPT = list(range(100))
TEXT = 'The user likes tea. "It is calm!" It has a gard'


def finish(
    text: str,
    reason: FinishReason = "stop",
    ids: list[int] | None = None,
    stop: tuple[str, ...] = (),
    **rules: Any,
) -> tuple[str, str]:
    """The text and the reason of its failure, empty for none."""
    decoding = DecodingConfig(stop=stop, text=TextConfig(**rules))
    finished, failure = finished_text(text, Completion(0, ids or [1], reason), PROMPT, decoding)
    return finished, failure.reason if failure else ""


def test_finished_text_that_ended_by_itself_is_kept() -> None:
    assert finish("  Calm and near \n") == ("Calm and near", "")


@pytest.mark.parametrize(
    ("max_words", "expected"),
    [
        (50, 'The user likes tea. "It is calm!"'),
        (7, 'The user likes tea. "It is calm!"'),
        (6, "The user likes tea."),
    ],
)
def test_finished_text_that_was_cut_ends_with_a_whole_sentence(
    max_words: int, expected: str
) -> None:
    assert finish(TEXT, "length", max_words=max_words) == (expected, "")


def test_finished_text_with_too_many_words_loses_sentences() -> None:
    assert finish("One two three. Four five.", max_words=4) == ("One two three.", "")


@pytest.mark.parametrize(
    ("text", "reason", "max_words"),
    [("One two three four. Five.", "stop", 3), ("One two 3.5 thr", "length", 50)],
)
def test_finished_text_without_a_sentence_in_it_fails(
    text: str, reason: FinishReason, max_words: int
) -> None:
    assert finish(text, reason, max_words=max_words) == (text, "no_full_sentence")


def test_finished_text_ends_before_the_first_stop_string() -> None:
    assert finish("Calm. Near.\nUser: x", stop=("x", "\n")) == ("Calm. Near.", "")
    assert finish("\nCalm.", stop=("\n",)) == ("", "empty_text")


def test_finished_text_repetition_fails() -> None:
    assert finish("so it is good, " * 3) == (("so it is good, " * 3).strip(), "")
    assert finish("so it is good, " * 4)[1] == "repetitive_text"


def test_finished_text_echo_of_the_prompt_fails() -> None:
    assert finish("Calm.", ids=[7, *PROMPT[30:55], 7]) == ("Calm.", "prompt_echo")
    assert finish("Calm.", ids=[7, *PROMPT[30:54], 7]) == ("Calm.", "")


def test_finished_text_without_rules_is_as_written() -> None:
    rules = {"max_words": None, "max_phrase_repeats": None, "max_echo_tokens": None}
    assert finish("so it is good, " * 40 + "an", "length", ids=PROMPT, **rules) == (
        "so it is good, " * 40 + "an",
        "",
    )
    assert finish("", **rules) == ("", "empty_text")
