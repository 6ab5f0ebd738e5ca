"""What becomes of the model's replies."""

import pytest

from tests.xrec.annotate.language_model.rows import item_row
from xrec.annotate.language_model.replies import (
    ItemReply,
    PairReply,
    item_text,
    pair_text,
    whole_sentences,
)
from xrec.annotate.rows import Aspect, Failure, ItemText, PairText


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is soft. It is wide.", "It is soft. It is wide."),
        ("  It is\n soft  ", "It is soft."),
        ("It is soft, “as silk.”", "It is soft, “as silk.”"),
        ("It costs 3.50", "It costs 3.50."),
        ("柔らかい。", "柔らかい。"),
        ("...", None),
        ("It is soft. It is wide. It is soft. It is so", "It is soft. It is wide. It is so."),
        (" - ", None),
        ("Soft strap. " + "a" * 800, "Soft strap."),
        ("a" * 800, None),
    ],
)
def test_whole_sentences_end_with_the_last_whole_one_and_repeat_none(
    text: str, expected: str | None
) -> None:
    assert whole_sentences(text) == expected


def test_item_text_keeps_the_sources_title_and_takes_the_models_where_there_is_none() -> None:
    reply = ItemReply(title=" Soft\nStrap ", profile="A strap.")
    assert item_text(item_row(title="Strap 2"), reply) == ItemText("Strap 2", "A strap.")
    assert item_text(item_row(), reply) == ItemText("Soft Strap", "A strap.", title_is_made=True)


def test_pair_text_has_each_aspect_once_and_none_without_a_name() -> None:
    reply = PairReply.model_validate(
        {
            "aspects": [
                {"aspect": " Width ", "opinion": "wide", "sentiment": "positive"},
                {"aspect": "width", "opinion": "narrow", "sentiment": "negative"},
                {"aspect": " ", "opinion": "good", "sentiment": "neutral"},
            ],
            "explanation": "You would enjoy it",
        }
    )
    assert pair_text(reply) == PairText(
        "You would enjoy it.", (Aspect("Width", "wide", "positive"),)
    )


def test_pair_text_without_words_is_a_failure_with_the_reply() -> None:
    failure = pair_text(PairReply(aspects=[], explanation="-"))
    assert isinstance(failure, Failure)
    assert failure.reason == "no_full_sentence"
    assert failure.reply == '{"aspects":[],"explanation":"-"}'
