"""What the language model is to answer, how long at most, and what becomes of it."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, create_model

from xrec.annotate.annotator import (
    LOW_RATED,
    Aspect,
    Failure,
    ItemInput,
    ItemText,
    PairInput,
    PairText,
    Review,
    Sentiment,
    UserInput,
    UserText,
)
from xrec.config import ReplyFailureReason

Kind = Literal["item", "user", "pair"]

_MOST_ASPECTS = 6
_MOST_CHARACTERS = 800
_MOST_OF_A_NAME = 60
_MOST_OF_A_QUOTE = 300
_CHARACTERS_PER_TOKEN = 3.0
"""Of JSON in a language of letters, on the low side."""
_CHARACTERS_AROUND_ASPECT = 75
_CHARACTERS_AROUND = 40
"""The names of fields, quotes and brackets: of an aspect, and of the reply."""
_SHORT_ASPECT, _SHORT_OPINION, _SHORT_QUOTE, _SHORT_EXPLANATION = 30, 40, 60, 60
NO_SENTENCE = "no_full_sentence"
COPIES_EXAMPLE = "copies_example"
OTHER_LANGUAGE = "other_language"
REASONS = (*get_args(ReplyFailureReason), NO_SENTENCE, COPIES_EXAMPLE, OTHER_LANGUAGE)

_MARKS = str.maketrans(
    dict.fromkeys('"`\u00b4\u2018\u2019\u201a\u201c\u201d\u201e\u2039\u203a\xab\xbb', "'")
)
# Behind the full-width marks of Chinese and Japanese no blank follows.
_SENTENCE_END = re.compile(
    r"[.!?\u2026][\"'\u201d\u2019)]?(?=\s|$)|[\u3002\uff01\uff1f]+[\"'\u201d\u2019)\u300d\u300f\uff09]?"
)

_Text = Annotated[str, Field(min_length=1, max_length=_MOST_CHARACTERS)]
_Words = Annotated[str, Field(max_length=_MOST_OF_A_NAME)]


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
    """An aspect that a review speaks of; the quote comes first, so that the others follow it."""

    quote: Annotated[str, Field(max_length=_MOST_OF_A_QUOTE)]
    aspect: _Words
    opinion: _Words
    sentiment: Sentiment


class PairReply(_Reply):
    """A pair's aspects and explanation."""

    aspects: Annotated[list[AspectReply], Field(max_length=_MOST_ASPECTS)]
    explanation: Annotated[str, Field(max_length=_MOST_CHARACTERS)]


SCHEMAS: dict[Kind, type[_Reply]] = {"item": ItemReply, "user": UserReply, "pair": PairReply}


@dataclass(frozen=True)
class ReplyLimits:
    """How long the parts of a reply may be, so that the whole of it fits.

    A grammar that bounds no string lets a small model write on until it is cut off.

    profile: characters of an item's or a user's profile.
    explanation: characters of a pair's explanation, which shares the reply with its aspects.
    aspect, opinion, quote: characters of each, of which there are at most num_aspects.
    """

    profile: int = _MOST_CHARACTERS
    explanation: int = _MOST_CHARACTERS
    num_aspects: int = _MOST_ASPECTS
    aspect: int = _MOST_OF_A_NAME
    opinion: int = _MOST_OF_A_NAME
    quote: int = _MOST_OF_A_QUOTE

    @classmethod
    def of_tokens(cls, max_tokens: int) -> "ReplyLimits":
        """The limits of replies of at most `max_tokens`, at three characters a token.

        A language that needs more tokens may still be cut off, and so may a reply of less than 105
        tokens: there is always room for one aspect and a short sentence.
        """
        room = int(max_tokens * _CHARACTERS_PER_TOKEN) - _CHARACTERS_AROUND
        each = _CHARACTERS_AROUND_ASPECT + _SHORT_ASPECT + _SHORT_OPINION + _SHORT_QUOTE
        num_aspects = min(max(1, room * 2 // 3 // each), _MOST_ASPECTS)
        return cls(
            max(_SHORT_EXPLANATION, min(room - _MOST_OF_A_NAME, _MOST_CHARACTERS)),
            max(_SHORT_EXPLANATION, min(room - num_aspects * each, _MOST_CHARACTERS)),
            num_aspects,
            _SHORT_ASPECT,
            _SHORT_OPINION,
            _SHORT_QUOTE,
        )

    def item(self) -> type[ItemReply]:
        """The schema of an item's reply."""
        return create_model("ItemReply", __base__=ItemReply, profile=_text(self.profile, 1))

    def user(self) -> type[UserReply]:
        """The schema of a user's reply."""
        return create_model("UserReply", __base__=UserReply, profile=_text(self.profile, 1))

    def pair(self) -> type[PairReply]:
        """The schema of a pair's reply."""
        names: dict[str, Any] = {"aspect": _text(self.aspect, 1), "opinion": _text(self.opinion)}
        names |= {"quote": _text(self.quote, 1)}
        aspect: Any = create_model("AspectReply", __base__=AspectReply, **names)
        return create_model(
            "PairReply",
            __base__=PairReply,
            aspects=Annotated[list[aspect], Field(max_length=self.num_aspects)],
            explanation=_text(self.explanation),
        )


def _text(max_length: int, min_length: int = 0) -> Any:
    return Annotated[str, Field(min_length=min_length, max_length=max_length)]


def item_text(row: ItemInput, limits: ReplyLimits, reply: ItemReply) -> ItemText | Failure:
    """The item's text; a title of the source's own is kept as it is."""
    profile = whole_sentences(reply.profile, limits.profile)
    if profile is None:
        return _without_sentence(reply)
    return ItemText(row.title or _line(reply.title), profile, title_is_made=not row.title)


def user_text(row: UserInput, limits: ReplyLimits, reply: UserReply) -> UserText | Failure:
    """The user's text."""
    profile = whole_sentences(reply.profile, limits.profile)
    return _without_sentence(reply) if profile is None else UserText(profile)


def is_quote(words: str, review: Review) -> bool:
    """Whether the words stand so in the review; blanks, case and quotation marks do not matter."""
    said = _comparable(words)
    return bool(said) and said in _comparable(f"{review.summary}: {review.review}")


def _comparable(text: str) -> str:
    return _line(text.translate(_MARKS)).casefold().strip("'.\u2026 ")


def quote_problem(row: PairInput, reply: PairReply) -> str | None:
    """What is wrong with a reply of which nothing stands in the review; None for others."""
    is_empty = not reply.aspects and not reply.explanation.strip()
    if is_empty or any(is_quote(each.quote, row.review) for each in reply.aspects):
        return None
    return "no aspect has a quote that stands in the review; copy the review's words as they are"


def pair_text(row: PairInput, limits: ReplyLimits, reply: PairReply) -> PairText | Failure:
    """The pair's text: aspects whose quotes stand in the review, and of equal ones the first.

    An opinion in other words than the review's is left out: texts show it in quotation marks.
    Only a review of which an aspect is told, and none that is positive, may have no explanation;
    and a low-rated one, of which it is not kept.
    """
    explanation = whole_sentences(reply.explanation, limits.explanation)
    aspects: dict[str, Aspect] = {}
    for found in reply.aspects:
        name, opinion = _words(found.aspect, limits.aspect), _words(found.opinion, limits.opinion)
        if name and is_quote(found.quote, row.review):
            said = opinion if is_quote(opinion, row.review) else ""
            aspects.setdefault(name.casefold(), Aspect(name, said, found.sentiment))
    if explanation is None:
        is_praised = any(each.sentiment == "positive" for each in aspects.values())
        is_left_out = bool(aspects) and not is_praised and not reply.explanation.strip()
        if not is_left_out and row.split != LOW_RATED:
            return _without_sentence(reply)
    return PairText(explanation or "", tuple(aspects.values()))


def whole_sentences(text: str, max_length: int) -> str | None:
    """The text in one line, up to the end of its last sentence, and each sentence once.

    Small models repeat themselves until they are cut off. A short text that lacks the last full
    stop gets one. A text that was ended by the largest length, in characters, and has no whole
    sentence is None, like one without words.
    """
    line = _line(text)
    starts = [0, *(match.end() for match in _SENTENCE_END.finditer(line))]
    *whole, rest = (line[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True))
    if rest and len(text) < max_length:
        whole.append(f"{rest}.")
    once: dict[str, str] = {}
    for sentence in whole:
        once.setdefault(sentence.strip(), sentence)
    said = "".join(once.values())
    return said if any(map(str.isalnum, said)) else None


def _words(text: str, max_length: int) -> str:
    """The text in one line, without a last word that its largest length cut."""
    return _line(text if len(text) < max_length else text.rpartition(" ")[0])


def _line(text: str) -> str:
    return " ".join(text.split())


def _without_sentence(reply: BaseModel) -> Failure:
    return Failure(NO_SENTENCE, "the text has no whole sentence", reply.model_dump_json())
