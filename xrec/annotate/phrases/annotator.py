"""Writes texts from phrases: what reviews praise in an item, what a user praises."""

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
"""The cost that counts pairs whose review was not read, because it is not in English."""
_VERSION = 16  # of the rules, part of a run's identity
_MIN_COMPLAINTS, _MAX_COMPLAINTS = 2, 2
_MIN_SHARE = 0.1  # of the reviews that praise what a profile names
_MAX_TITLES = 3
_NAMED_IN_PROFILE, _NAMED_IN_EXPLANATION = 5, 3  # aspects at most
# Weights of a mention by its opinion.
_WITH_ADJECTIVE, _POSITIVE, _NEGATIVE, _NEUTRAL = 2.0, 1.5, 1.0, 0.5


def phrases_spec(config: PhrasesAnnotator, vocabulary: VocabularyConfig) -> AnnotatorSpec:
    """Return the spec of the annotator; raise ModelError if its parser is not installed."""
    words = vocabulary.model_dump(mode="json", include={"add", "drop"})
    return AnnotatorSpec(
        settings={**identity_of(config), **words, "version": _VERSION},
        inputs={"parser": parser_fingerprint()},
        reasons=(),
        make=_load,
        learn=functools.partial(
            learn_phrases, min_reviews=config.min_reviews, vocabulary=vocabulary
        ),
        learned=fingerprint_of_phrases,
    )


def _load(output: Location) -> "PhraseAnnotator":
    lexicon = read_lexicon(output)
    return PhraseAnnotator(lexicon, Reader(lexicon.valences, read_parsed(output)))


@dataclass(frozen=True)
class _Mentioned:
    """An aspect of a review; `phrase` has the adjective that praises it, if there is one."""

    aspect: Aspect
    written: str
    phrase: str


@dataclass
class _Praise:
    """How often reviews praise and blame an aspect, and in which phrases they praise it."""

    written: str
    num_positive: int = 0
    num_negative: int = 0
    phrases: Counter[str] = field(default_factory=Counter)

    @property
    def phrase(self) -> str:
        """The most frequent phrase, preferably one with an adjective."""
        phrases = [phrase for phrase in self.phrases if phrase != self.written] or [self.written]
        return max(phrases, key=lambda phrase: (self.phrases[phrase], phrase))


class PhraseAnnotator:
    """Names what reviews praise (an Annotator)."""

    def __init__(self, lexicon: Lexicon, reader: Reader):
        self._lexicon, self._reader = lexicon, reader

    def write(self, rows: Sequence[Input]) -> Written:
        """See Annotator; the cost is the number of pairs whose review is not in English."""
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
        blamed = [
            name
            for name, counts in praise.items()
            if counts.num_negative >= max(_MIN_COMPLAINTS, counts.num_positive + 1)
        ]
        blamed.sort(key=lambda name: (-praise[name].num_negative, name))
        profile = item_profile(
            row.item_id,
            row.details,
            [praise[name].phrase for name in self._best(praise, len(row.reviews), title)],
            [praise[name].written for name in blamed[:_MAX_COMPLAINTS]],
        )
        return ItemText(title, profile, title_is_made=bool(title) and not row.title)

    def _user(self, row: UserInput) -> UserText:
        praise = self._praise(reviewed.review for reviewed in row.reviews)
        praised = [praise[name].phrase for name in self._best(praise, len(row.reviews), "")]
        items = [reviewed.item for reviewed in row.reviews if reviewed.item is not None]
        titles = dict.fromkeys(
            item.title for item in items if item.title and not item.title_is_made
        )
        return UserText(user_profile(row.user_id, praised, list(titles)[:_MAX_TITLES]))

    def _pair(self, row: PairInput) -> PairText:
        mentioned = self._mentioned(row.review)
        aspects = tuple(each.aspect for each in mentioned)
        title = row.item.title if row.item else ""
        praised = [
            each
            for each in mentioned
            if each.aspect.sentiment == "positive" and not _is_in(each.aspect.aspect, title)
        ]
        # Desk staff is staff: of aspects with the same noun only the best is named.
        by_noun: dict[str, _Mentioned] = {}
        for each in sorted(praised, key=self._weight, reverse=True):
            by_noun.setdefault(each.aspect.aspect.rpartition(" ")[2], each)
        best = list(by_noun.values())[:_NAMED_IN_EXPLANATION]
        if not best:
            return PairText("", aspects)
        phrases = [each.phrase for each in praised if each in best]
        return PairText(explanation(row.user_id, row.item_id, title, phrases), aspects)

    def _mentioned(self, review: Review) -> list[_Mentioned]:
        """Return the aspects of a review, each once, in its order."""
        best: dict[str, _Mentioned] = {}
        mentions = self._read(review)
        topics = {mention.names[-1] for mention in mentions if "topic" in mention.roles}
        for mention in mentions:
            known = self._lexicon.aspect_of(mention)
            if known is None or known[0].rpartition(" ")[2] in topics:
                continue  # what is said about "this light" is said about the item
            name, written = known
            opinion = mention.opinion
            is_shown = bool(opinion) and not name.startswith(opinion)
            phrase = f"{opinion} {written}" if is_shown else written
            each = _Mentioned(Aspect(name, opinion, mention.sentiment), written, phrase)
            if name not in best or self._weight(each) > self._weight(best[name]):
                best[name] = each
        return list(best.values())

    def _read(self, review: Review) -> tuple[Mention, ...]:
        return self._reader.mentions(_whole(review)) or ()

    def _called(self, reviews: Sequence[Review]) -> str:
        """Return what reviews call an item without a title, such as `this film`; "" if nothing."""
        return self._lexicon.called(
            name
            for review in reviews
            for name in sorted(
                {each.names[-1] for each in self._read(review) if "pointed" in each.roles}
            )
        )

    def _praise(self, reviews: Iterable[Review]) -> dict[str, _Praise]:
        praise: dict[str, _Praise] = {}
        for each in (each for review in reviews for each in self._mentioned(review)):
            counts = praise.setdefault(each.aspect.aspect, _Praise(each.written))
            if each.aspect.sentiment == "positive":
                counts.num_positive += 1
                counts.phrases[each.phrase] += 1
            counts.num_negative += each.aspect.sentiment == "negative"
        return praise

    def _best(self, praise: Mapping[str, _Praise], num_reviews: int, title: str) -> list[str]:
        """Return the most praised aspects; of equals, the rarer ones come first."""
        liked = [
            name
            for name, counts in praise.items()
            if counts.num_positive > counts.num_negative
            and counts.num_positive >= _MIN_SHARE * num_reviews
            and not _is_in(name, title)
        ]
        liked.sort(key=lambda name: (-praise[name].num_positive * self._rarity(name), name))
        return liked[:_NAMED_IN_PROFILE]

    def _weight(self, each: _Mentioned) -> float:
        if each.aspect.sentiment == "positive":
            weight = _WITH_ADJECTIVE if each.phrase != each.written else _POSITIVE
        else:
            weight = _NEGATIVE if each.aspect.sentiment == "negative" else _NEUTRAL
        return weight * math.sqrt(self._rarity(each.aspect.aspect))

    def _rarity(self, name: str) -> float:
        count = self._lexicon.num_reviews.get(name, 0)
        return math.log((2 + self._lexicon.num_learned) / (1 + count))


def _reviews_of(row: Input) -> Iterable[Review]:
    match row:
        case ItemInput():
            return row.reviews
        case UserInput():
            return (reviewed.review for reviewed in row.reviews)
        case PairInput():
            return (row.review,)


def _whole(review: Review) -> str:
    return joined_text(review.summary, review.review)


def _is_in(aspect: str, title: str) -> bool:
    """Return whether the title says it already: "its strap" says nothing about a guitar strap."""
    words = {singular(word) for word in title.lower().split()}
    return {singular(word) for word in aspect.split(" ")} <= words
