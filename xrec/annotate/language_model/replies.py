"""The schemas and maximum lengths of replies, and their conversion to texts."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Field, create_model

from xrec.annotate.annotator import (
    Aspect,
    Input,
    ItemText,
    Kind,
    PairInput,
    PairText,
    Review,
    Sentiment,
    Text,
    UserInput,
    UserText,
)
from xrec.config import ReplyFailureReason
from xrec.data import LOW_RATED
from xrec.errors import Failure

_MAX_ASPECTS = 6
_MAX_CHARACTERS = 800
_MAX_NAME = 60
_MAX_QUOTE = 300
_CHARACTERS_PER_TOKEN = 3.0  # of JSON in an alphabetic language; a low estimate
# Characters of field names, quotes and brackets, per aspect and per reply.
_CHARACTERS_AROUND_ASPECT, _CHARACTERS_AROUND = 75, 40
_SHORT_ASPECT, _SHORT_OPINION, _SHORT_QUOTE, _SHORT_EXPLANATION = 30, 40, 60, 60
COPIES_EXAMPLE, OTHER_LANGUAGE = "copies_example", "other_language"
_NO_SENTENCE = "no_full_sentence"
REASONS = (*get_args(ReplyFailureReason), _NO_SENTENCE, COPIES_EXAMPLE, OTHER_LANGUAGE)

_MARKS = str.maketrans(
    dict.fromkeys('"`\u00b4\u2018\u2019\u201a\u201c\u201d\u201e\u2039\u203a\xab\xbb', "'")
)
# Chinese and Japanese have no space after their full-width marks.
_SENTENCE_END = re.compile(
    r"[.!?\u2026][\"'\u201d\u2019)]?(?=\s|$)|[\u3002\uff01\uff1f]+[\"'\u201d\u2019)\u300d\u300f\uff09]?"
)


class ItemReply(BaseModel):
    """An item's title and profile."""

    title: Annotated[str, Field(max_length=_MAX_NAME)]
    profile: str


class UserReply(BaseModel):
    """A user's profile."""

    profile: str


class AspectReply(BaseModel):
    """An aspect that a review speaks of; the quote comes first, so that the others follow it."""

    quote: str
    aspect: str
    opinion: str
    sentiment: Sentiment


class PairReply(BaseModel):
    """A pair's aspects and explanation."""

    aspects: list[AspectReply]
    explanation: str


@dataclass(frozen=True)
class ReplyLimits:
    """The maximum number of characters of each part of a reply, and the maximum number of aspects.

    Without such limits, small models write until they are cut off. An explanation shares the reply
    with its aspects.
    """

    profile: int = _MAX_CHARACTERS
    explanation: int = _MAX_CHARACTERS
    num_aspects: int = _MAX_ASPECTS
    aspect: int = _MAX_NAME
    opinion: int = _MAX_NAME
    quote: int = _MAX_QUOTE

    @classmethod
    def of_tokens(cls, max_tokens: int) -> "ReplyLimits":
        """Return the limits for replies of `max_tokens`, at three characters per token.

        There is always room for one aspect and a short sentence, which need 105 tokens. If
        `max_tokens` is lower, or the language needs more tokens, replies may be cut off.
        """
        room = int(max_tokens * _CHARACTERS_PER_TOKEN) - _CHARACTERS_AROUND
        each = _CHARACTERS_AROUND_ASPECT + _SHORT_ASPECT + _SHORT_OPINION + _SHORT_QUOTE
        num_aspects = min(max(1, room * 2 // 3 // each), _MAX_ASPECTS)
        return cls(
            max(_SHORT_EXPLANATION, min(room - _MAX_NAME, _MAX_CHARACTERS)),
            max(_SHORT_EXPLANATION, min(room - num_aspects * each, _MAX_CHARACTERS)),
            num_aspects,
            _SHORT_ASPECT,
            _SHORT_OPINION,
            _SHORT_QUOTE,
        )


@functools.cache
def reply_schema(kind: Kind, limits: ReplyLimits) -> type[BaseModel]:
    """Return the schema of a reply within the limits."""
    if kind != "pair":
        base = ItemReply if kind == "item" else UserReply
        return _limited(base, profile=_text(limits.profile, 1))
    aspect: Any = _limited(
        AspectReply,
        quote=_text(limits.quote, 1),
        aspect=_text(limits.aspect, 1),
        opinion=_text(limits.opinion),
    )
    aspects = Annotated[list[aspect], Field(max_length=limits.num_aspects)]
    return _limited(PairReply, aspects=aspects, explanation=_text(limits.explanation))


def _limited(base: type[BaseModel], **fields: Any) -> type[BaseModel]:
    return create_model(base.__name__, __base__=base, **fields)


def _text(max_length: int, min_length: int = 0) -> Any:
    return Annotated[str, Field(min_length=min_length, max_length=max_length)]


def text_of(row: Input, limits: ReplyLimits, reply: Any) -> Text | Failure:
    """Return the text in a reply to the prompt of `row`; a title from the source is kept.

    A pair gets the aspects whose quotes are in the review, without duplicates. An opinion is
    dropped if its words are not in the review, because texts show it in quotation marks. An
    explanation may be empty only if there are aspects and none is positive, or if the review is
    low-rated, because its explanation is not kept.
    """
    if isinstance(row, PairInput):
        text = whole_sentences(reply.explanation, limits.explanation)
        aspects = _aspects(row.review, limits, reply.aspects)
        is_praised = any(each.sentiment == "positive" for each in aspects)
        may_be_empty = bool(aspects) and not is_praised and not reply.explanation.strip()
        if text is not None or may_be_empty or row.split == LOW_RATED:
            return PairText(text or "", aspects)
    elif (text := whole_sentences(reply.profile, limits.profile)) is not None:
        if isinstance(row, UserInput):
            return UserText(text)
        return ItemText(row.title or _line(reply.title), text, title_is_made=not row.title)
    return Failure(_NO_SENTENCE, "the text has no whole sentence", reply=reply.model_dump_json())


def _aspects(
    review: Review, limits: ReplyLimits, replies: Sequence[AspectReply]
) -> tuple[Aspect, ...]:
    aspects: dict[str, Aspect] = {}
    for each in replies:
        name, opinion = _words(each.aspect, limits.aspect), _words(each.opinion, limits.opinion)
        if name and is_quote(each.quote, review):
            opinion = opinion if is_quote(opinion, review) else ""
            aspects.setdefault(name.casefold(), Aspect(name, opinion, each.sentiment))
    return tuple(aspects.values())


def is_quote(words: str, review: Review) -> bool:
    """Return whether a review contains the words, ignoring spacing, case and quotation marks."""
    quote = _comparable(words)
    return bool(quote) and quote in _comparable(review.text)


def _comparable(text: str) -> str:
    return _line(text.translate(_MARKS)).casefold().strip("'.\u2026 ")


def quote_problem(row: PairInput, reply: PairReply) -> str | None:
    """Return what is wrong with a reply if none of its quotes is in the review; otherwise None."""
    is_empty = not reply.aspects and not reply.explanation.strip()
    if is_empty or any(is_quote(each.quote, row.review) for each in reply.aspects):
        return None
    return "no aspect has a quote that is in the review; copy the review's words as they are"


def whole_sentences(text: str, max_length: int) -> str | None:
    """Return the whole sentences of a text on one line, without duplicates; None if there are none.

    Small models repeat themselves until they are cut off. An unfinished last sentence gets a period
    if the text is shorter than `max_length` characters; otherwise it was cut off and is dropped.
    """
    line = _line(text)
    starts = [0, *(match.end() for match in _SENTENCE_END.finditer(line))]
    *whole, rest = (line[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True))
    if rest and len(text) < max_length:
        whole.append(f"{rest}.")
    once: dict[str, str] = {}
    for sentence in whole:
        once.setdefault(sentence.strip(), sentence)
    sentences = "".join(once.values())
    return sentences if any(map(str.isalnum, sentences)) else None


def _words(text: str, max_length: int) -> str:
    """Return the text on one line, without its last word if that was cut off."""
    return _line(text if len(text) < max_length else text.rpartition(" ")[0])


def _line(text: str) -> str:
    return " ".join(text.split())
