"""What becomes of the model's replies."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from tests.xrec.annotate.language_model.rows import item_row, pair_row, user_row
from xrec.annotate.annotator import Aspect, Failure, ItemText, PairText, UserText
from xrec.annotate.language_model.replies import (
    ItemReply,
    PairReply,
    ReplyLimits,
    item_text,
    pair_text,
    user_text,
    whole_sentences,
)

NONE_LESS = ReplyLimits()
KEPT = pair_row("Soft.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is soft. It is wide.", "It is soft. It is wide."),
        ("  It is\n soft  ", "It is soft."),
        ("It is soft, “as silk.”", "It is soft, “as silk.”"),
        ("It costs 3.50", "It costs 3.50."),
        ("柔らかい。", "柔らかい。"),
        ("音が良い。使いやすい！音が良い。", "音が良い。使いやすい！"),
        ("「音が良い。」と思う。", "「音が良い。」と思う。"),
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
    assert whole_sentences(text, 800) == expected


def test_item_text_keeps_the_sources_title_and_takes_the_models_where_there_is_none() -> None:
    reply = ItemReply(title=" Soft\nStrap ", profile="A strap.")
    assert item_text(item_row(title="Strap 2"), NONE_LESS, reply) == ItemText("Strap 2", "A strap.")
    assert item_text(item_row(), NONE_LESS, reply) == ItemText(
        "Soft Strap", "A strap.", title_is_made=True
    )


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
    assert pair_text(KEPT, NONE_LESS, reply) == PairText(
        "You would enjoy it.", (Aspect("Width", "wide", "positive"),)
    )


def _pair_reply(explanation: str, *sentiments: str) -> PairReply:
    aspects = [
        {"aspect": f"part {number}", "opinion": "", "sentiment": sentiment}
        for number, sentiment in enumerate(sentiments)
    ]
    return PairReply.model_validate({"aspects": aspects, "explanation": explanation})


def test_pair_text_of_a_review_that_praises_nothing_has_aspects_alone() -> None:
    text = pair_text(KEPT, NONE_LESS, _pair_reply(" ", "negative", "neutral"))
    assert isinstance(text, PairText)
    assert (text.explanation, len(text.aspects)) == ("", 2)


@pytest.mark.parametrize(
    ("explanation", "sentiments"), [("-", ()), ("", ()), ("", ("negative", "positive"))]
)
def test_pair_text_without_explanation_is_a_failure_beside_praise_or_no_aspect(
    explanation: str, sentiments: tuple[str, ...]
) -> None:
    reply = _pair_reply(explanation, *sentiments)
    text = pair_text(KEPT, NONE_LESS, reply)
    assert isinstance(text, Failure)
    assert (text.reason, text.reply) == ("no_full_sentence", reply.model_dump_json())
    low_rated = replace(KEPT, split="low_rated")
    assert isinstance(pair_text(low_rated, NONE_LESS, reply), PairText)


@pytest.mark.parametrize("max_tokens", [90, 96, 128, 160, 256, 512, 4096])
def test_longest_reply_fits_the_tokens(max_tokens: int) -> None:
    limits = ReplyLimits.of_tokens(max_tokens)
    aspect = {
        "aspect": "x" * limits.aspect,
        "opinion": "x" * limits.opinion,
        "sentiment": "neutral",
    }
    pair = {"aspects": [aspect] * limits.num_aspects, "explanation": "x" * limits.explanation}
    item = {"title": "x" * 60, "profile": "x" * limits.profile}
    for schema, reply in ((limits.pair(), pair), (limits.item(), item)):
        assert len(schema.model_validate(reply).model_dump_json()) <= 3 * max_tokens


def test_limits_are_held_by_the_schemas() -> None:
    limits = ReplyLimits.of_tokens(128)
    assert limits == ReplyLimits(284, 214, num_aspects=1, aspect=30, opinion=40)
    assert ReplyLimits.of_tokens(1024) == ReplyLimits(aspect=30, opinion=40)
    with pytest.raises(ValidationError):
        limits.user().model_validate({"profile": "x" * 285})
    aspect = {"aspect": "width", "opinion": "wide", "sentiment": "positive"}
    long = {**aspect, "opinion": "x" * 41}
    with pytest.raises(ValidationError):
        limits.pair().model_validate({"aspects": [long], "explanation": "x"})
    with pytest.raises(ValidationError):
        limits.pair().model_validate({"aspects": [aspect] * 2, "explanation": "x"})


def test_names_that_fill_their_limits_lose_the_word_that_was_cut() -> None:
    limits = ReplyLimits(aspect=12, opinion=8)
    aspect = {"aspect": "width of the", "opinion": "as wide", "sentiment": "positive"}
    reply = limits.pair().model_validate({"aspects": [aspect], "explanation": "It is wide."})
    assert pair_text(KEPT, limits, reply) == PairText(
        "It is wide.", (Aspect("width of", "as wide", "positive"),)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("They like it. They w", "They like it."),
        ("音が良い。使いやすい。それ", "音が良い。使いやすい。"),
        ("音が良い！使いやすい？それ", "音が良い！使いやすい？"),
    ],
)
def test_text_that_fills_its_limit_ends_with_its_last_whole_sentence(
    text: str, expected: str
) -> None:
    limits = ReplyLimits(profile=len(text))
    reply = limits.user().model_validate({"profile": text})
    assert user_text(user_row(), limits, reply) == UserText(expected)
