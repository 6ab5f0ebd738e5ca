"""Turns of phrase that stand for an aspect, and the words before that turn them around."""

import pytest

from xrec.annotate.phrases.attributes import attributes


def _is_denied(text: str) -> bool:
    (found,) = attributes(text)
    return found.is_denied


@pytest.mark.parametrize(
    "text",
    [
        "It is not comfortable.",
        "It isn't any more comfortable.",
        "It could be more comfortable.",
        "More expensive straps may be more comfortable.",
        "It should have been a little more durable.",
        "It would be more comfortable with a pad.",
        "I wish it were more accurate.",
        "It would be useful if it were more accurate.",
        "I expected this to be a bit more versatile.",
        "Neither durable nor cheap.",
        "It is light, nor is it durable.",
        "It comes without great quality.",
        "There is no great quality.",
        "It lacks high quality.",
        "It cannot be called durable.",
        "It cant be called durable.",
        "It is far from durable.",
        "It is anything but reliable.",
        "It is no longer accurate.",
        "It used to be reliable.",
        "It fails to sound great.",
        "It failed to look good.",
        "It stopped working well.",
    ],
)
def test_words_that_turn_praise_around_deny_it(text: str) -> None:
    assert _is_denied(text)


@pytest.mark.parametrize(
    "text",
    [
        "It is much more comfortable than my old one.",
        "Way more accurate than the other tuner.",
        "If anything more versatile than the other.",
        "It is more than worth the money.",
        "It couldn't be more comfortable.",
        "It could not be any more comfortable.",
        "It couldn't be easier to use.",
        "It is not only comfortable.",
        "No problems well built.",
        "Without a doubt durable.",
        "You can't beat the great price.",
        "It is not cheap but durable.",
        "I would say this one is more sturdy.",
    ],
)
def test_praise_behind_a_comparison_or_a_turn_of_phrase_is_praise(text: str) -> None:
    assert not _is_denied(text)
