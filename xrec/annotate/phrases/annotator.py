"""Writes texts from phrases: what is praised in an item, by a user, and in one review."""

import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from xrec.annotate.annotator import (
    AnnotatorSpec,
    Aspect,
    Input,
    ItemInput,
    ItemText,
    PairInput,
    PairText,
    Review,
    Text,
    UserInput,
    UserText,
    Written,
)
from xrec.annotate.phrases.lexicon import (
    Lexicon,
    fingerprint_of_phrases,
    joined_text,
    learn_phrases,
    read_lexicon,
)
from xrec.annotate.phrases.mentions import Mention, Reader, read_parsed
from xrec.annotate.phrases.sentences import explanation, item_profile, user_profile
from xrec.config import PhrasesAnnotator, VocabularyConfig, identity_of
from xrec.data.english import singular
from xrec.data.parser import parser_fingerprint
from xrec.storage import Location

OTHER_LANGUAGE = "other_language"
"""The cost that counts the pairs whose review is not in English, and was not read."""
_VERSION = 15  # of the rules; another one is another run
_LEAST_COMPLAINTS, _MOST_COMPLAINTS = 2, 2
_LEAST_SHARE = 0.1  # of the reviews, that praise what a profile names
_MOST_TITLES = 3
_NAMED_IN_PROFILE, _NAMED_IN_EXPLANATION = 5, 3  # aspects at most
# What a mention with such an opinion counts.
_SHOWN, _POSITIVE, _NEGATIVE, _NEUTRAL = 2.0, 1.5, 1.0, 0.5


def phrases_spec(config: PhrasesAnnotator, vocabulary: VocabularyConfig) -> AnnotatorSpec:
    """The annotator that `config` asks for. Raises ModelError if its parser is not there."""
    words = vocabulary.model_dump(mode="json", include={"add", "drop"})
    return AnnotatorSpec(
        settings={**identity_of(config), **words, "version": _VERSION},
        inputs={"parser": parser_fingerprint()},
        reasons=(),
        make=_make,
        learn=functools.partial(
            learn_phrases, min_reviews=config.min_reviews, vocabulary=vocabulary
        ),
        learned=fingerprint_of_phrases,
    )


def _make(output: Location) -> "PhraseAnnotator":
    lexicon = read_lexicon(output)
    return PhraseAnnotator(lexicon, Reader(lexicon.valences, read_parsed(output)))


@dataclass(frozen=True)
class _Mentioned:
    """An aspect of a review: how it is written, and with what the review says of it."""

    aspect: Aspect
    written: str
    shown: str


@dataclass
class _Praise:
    """How often several reviews praise and blame an aspect, and by which words."""

    written: str
    num_positive: int = 0
    num_negative: int = 0
    shown: Counter[str] = field(default_factory=Counter)

    @property
    def phrase(self) -> str:
        """The aspect behind the word that praises it most often."""
        words = [shown for shown in self.shown if shown != self.written] or [self.written]
        return max(words, key=lambda shown: (self.shown[shown], shown))


class PhraseAnnotator:
    """Names what reviews praise (an Annotator)."""

    def __init__(self, lexicon: Lexicon, reader: Reader):
        self._lexicon, self._reader = lexicon, reader

    def write(self, rows: Sequence[Input]) -> Written:
        """See Annotator; the costs have the number of pairs whose review is not in English."""
        self._reader.parse(_whole(review) for row in rows for review in _reviews_of(row))
        texts = [self._text(row) for row in rows]
        foreign = [
            isinstance(row, PairInput) and self._reader.mentions(_whole(row.review)) is None
            for row in rows
        ]
        return Written(texts, {OTHER_LANGUAGE: sum(foreign)})

    def _text(self, row: Input) -> Text:
        match row:
            case ItemInput():
                return self._item(row)
            case UserInput():
                return self._user(row)
            case PairInput():
                return self._pair(row)

    def _item(self, row: ItemInput) -> ItemText:
        title = row.title or self._called(row.reviews)
        praise = self._praise(row.reviews)
        praised = self._best(praise, len(row.reviews), title)
        blamed = sorted(
            (
                name
                for name, each in praise.items()
                if each.num_negative >= max(_LEAST_COMPLAINTS, each.num_positive + 1)
            ),
            key=lambda name: (-praise[name].num_negative, name),
        )
        profile = item_profile(
            row.item_id,
            row.details,
            [praise[name].phrase for name in praised],
            [praise[name].written for name in blamed[:_MOST_COMPLAINTS]],
        )
        return ItemText(title, profile, title_is_made=bool(title) and not row.title)

    def _user(self, row: UserInput) -> UserText:
        praise = self._praise(each.review for each in row.reviews)
        praised = [praise[name].phrase for name in self._best(praise, len(row.reviews), "")]
        items = [each.item for each in row.reviews if each.item is not None]
        titles = dict.fromkeys(
            item.title for item in items if item.title and not item.title_is_made
        )
        return UserText(user_profile(row.user_id, praised, list(titles)[:_MOST_TITLES]))

    def _pair(self, row: PairInput) -> PairText:
        found = self._mentions(row.review)
        aspects = tuple(each.aspect for each in found)
        title = row.item.title if row.item else ""
        named = [
            each
            for each in found
            if each.aspect.sentiment == "positive" and not _is_in(each.aspect.aspect, title)
        ]
        if not named:
            return PairText("", aspects)
        # Desk staff is staff: of aspects of one noun the first is named.
        of_nouns: dict[str, _Mentioned] = {}
        for each in sorted(named, key=self._weight, reverse=True):
            of_nouns.setdefault(each.aspect.aspect.rpartition(" ")[2], each)
        best = list(of_nouns.values())[:_NAMED_IN_EXPLANATION]
        praised = [each.shown for each in named if each in best]
        return PairText(explanation(row.user_id, row.item_id, title, praised), aspects)

    def _mentions(self, review: Review) -> list[_Mentioned]:
        """The aspects of a review, each once, in its order."""
        found: dict[str, _Mentioned] = {}
        mentions = self._read(review)
        topics = {each.names[-1] for each in mentions if each.is_topic}
        for mention in mentions:
            known = self._lexicon.aspect_of(mention)
            if known is None or known[0].rpartition(" ")[2] in topics:
                continue  # what is said of "this light" is said of the item
            name, written = known
            aspect = Aspect(name, mention.opinion, mention.sentiment)
            is_shown = bool(mention.opinion) and not name.startswith(mention.opinion)
            shown = f"{mention.opinion} {written}" if is_shown else written
            each = _Mentioned(aspect, written, shown)
            if name not in found or self._weight(each) > self._weight(found[name]):
                found[name] = each
        return list(found.values())

    def _read(self, review: Review) -> tuple[Mention, ...]:
        return self._reader.mentions(_whole(review)) or ()

    def _called(self, reviews: Sequence[Review]) -> str:
        """What the reviews call an item that has no title, as `this film`; empty if nothing."""
        return self._lexicon.called(
            name
            for review in reviews
            for name in sorted({each.names[-1] for each in self._read(review) if each.is_pointed})
        )

    def _praise(self, reviews: Iterable[Review]) -> dict[str, _Praise]:
        praise: dict[str, _Praise] = {}
        for review in reviews:
            for each in self._mentions(review):
                of_aspect = praise.setdefault(each.aspect.aspect, _Praise(each.written))
                if each.aspect.sentiment == "positive":
                    of_aspect.num_positive += 1
                    of_aspect.shown[each.shown] += 1
                of_aspect.num_negative += each.aspect.sentiment == "negative"
        return praise

    def _best(self, praise: Mapping[str, _Praise], num_reviews: int, title: str) -> list[str]:
        """The aspects that are praised most, the rarer ones first among equals."""
        liked = [
            name
            for name, each in praise.items()
            if each.num_positive > each.num_negative
            and each.num_positive >= _LEAST_SHARE * num_reviews
            and not _is_in(name, title)
        ]
        liked.sort(key=lambda name: (-praise[name].num_positive * self._rarity(name), name))
        return liked[:_NAMED_IN_PROFILE]

    def _weight(self, each: _Mentioned) -> float:
        aspect = each.aspect
        if aspect.sentiment == "positive":
            weight = _SHOWN if each.shown != each.written else _POSITIVE
        else:
            weight = _NEGATIVE if aspect.sentiment == "negative" else _NEUTRAL
        return weight * math.sqrt(self._rarity(aspect.aspect))

    def _rarity(self, name: str) -> float:
        count = self._lexicon.num_reviews.get(name, 0)
        return math.log((2 + self._lexicon.num_learned) / (1 + count))


def _reviews_of(row: Input) -> Iterable[Review]:
    match row:
        case ItemInput():
            return row.reviews
        case UserInput():
            return (each.review for each in row.reviews)
        case PairInput():
            return (row.review,)


def _whole(review: Review) -> str:
    return joined_text(review.summary, review.review)


def _is_in(aspect: str, title: str) -> bool:
    """Whether the title says it already: "its strap" tells nothing of a guitar strap."""
    words = {singular(word) for word in title.lower().split()}
    return {singular(word) for word in aspect.split(" ")} <= words
