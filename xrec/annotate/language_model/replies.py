"""What the language model is to answer, and what becomes of it."""

import re
from typing import Annotated, get_args

from pydantic import BaseModel, ConfigDict, Field

from xrec.annotate.rows import Aspect, Failure, ItemInput, ItemText, PairText, Sentiment, UserText
from xrec.config.text import ReplyFailureReason

MOST_ASPECTS = 6
_MOST_CHARACTERS = 800
NO_SENTENCE = "no_full_sentence"
REASONS: tuple[str, ...] = (*get_args(ReplyFailureReason), NO_SENTENCE)

_BLANKS = re.compile(r"\s+")
_SENTENCE_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"'\u201d\u2019)]?(?=\s|$)")

_Text = Annotated[str, Field(min_length=1, max_length=_MOST_CHARACTERS)]
_Words = Annotated[str, Field(max_length=60)]


class _Reply(BaseModel):
    """A reply may have further fields, which are ignored."""

    model_config = ConfigDict(extra="ignore")


class ItemReply(_Reply):
    """An item's title and profile."""

    title: _Words
    profile: _Text


class UserReply(_Reply):
    """A user's profile."""

    profile: _Text


class AspectReply(_Reply):
    """An aspect that a review speaks of."""

    aspect: _Words
    opinion: _Words
    sentiment: Sentiment


class PairReply(_Reply):
    """A pair's aspects and explanation."""

    aspects: Annotated[list[AspectReply], Field(max_length=MOST_ASPECTS)]
    explanation: _Text


def item_text(row: ItemInput, reply: ItemReply) -> ItemText | Failure:
    """The item's text; a title of the source's own is kept as it is."""
    profile = whole_sentences(reply.profile)
    if profile is None:
        return _without_sentence(reply)
    return ItemText(row.title or _line(reply.title), profile, title_is_made=not row.title)


def user_text(reply: UserReply) -> UserText | Failure:
    """The user's text."""
    profile = whole_sentences(reply.profile)
    return _without_sentence(reply) if profile is None else UserText(profile)


def pair_text(reply: PairReply) -> PairText | Failure:
    """The pair's text; of equal aspects the first one."""
    explanation = whole_sentences(reply.explanation)
    if explanation is None:
        return _without_sentence(reply)
    aspects: dict[str, Aspect] = {}
    for found in reply.aspects:
        name = _line(found.aspect)
        if name:
            aspects.setdefault(name.casefold(), Aspect(name, _line(found.opinion), found.sentiment))
    return PairText(explanation, tuple(aspects.values()))


def whole_sentences(text: str) -> str | None:
    """The text in one line, up to the end of its last sentence, and each sentence once.

    Small models repeat themselves until they are cut off. A short text that lacks the last full
    stop gets one. A text that was ended by the largest length and has no whole sentence is None,
    like one without words.
    """
    line = _line(text)
    starts = [0, *(match.end() for match in _SENTENCE_END.finditer(line))]
    *whole, rest = (
        line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)
    )
    if rest and len(text) < _MOST_CHARACTERS:
        whole.append(f"{rest}.")
    said = " ".join(dict.fromkeys(whole))
    return said if any(map(str.isalnum, said)) else None


def _line(text: str) -> str:
    return _BLANKS.sub(" ", text).strip()


def _without_sentence(reply: BaseModel) -> Failure:
    return Failure(NO_SENTENCE, "the text has no whole sentence", reply.model_dump_json())
