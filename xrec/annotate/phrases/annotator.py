"""Writes texts from phrases: what reviews praise about an item, and what a user praises."""

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

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
    learn_phrases,
    read_lexicon,
)
from xrec.annotate.phrases.reader import Reader, read_stored
from xrec.annotate.phrases.sentences import explanation, item_profile, user_profile
from xrec.config import PhrasesAnnotator, VocabularyConfig, identity_of
from xrec.data.language import parser_fingerprint, singular
from xrec.storage import Location

OTHER_LANGUAGE = "other_language"
"""The cost that counts pairs whose review was not read because it is not in English."""
_VERSION = 19  # of the rules, part of a run's identity
_MIN_COMPLAINTS, _MAX_COMPLAINTS = 2, 2
_MIN_SHARE = 0.1  # share of the reviews that praise what a profile names
_MAX_TITLES = 3
_NAMED_IN_PROFILE, _NAMED_IN_EXPLANATION = 5, 3  # maximum number of aspects
_WEIGHTS = {"positive": 1.5, "negative": 1.0, "neutral": 0.5}  # of a mention, by its sentiment
_WITH_ADJECTIVE = 2.0  # of praise with an adjective


def phrases_spec(config: PhrasesAnnotator, vocabulary: VocabularyConfig) -> AnnotatorSpec:
    """Return the spec of the annotator; raise ModelError if its parser is not installed."""
    words = vocabulary.model_dump(mode="json", include={"add", "min_reviews"})
    words["dropped"] = vocabulary.dropped
    return AnnotatorSpec(
        settings={**identity_of(config), **words, "version": _VERSION},
        inputs={"parser": parser_fingerprint()},
        reasons=(),
        make=_load,
        learn=functools.partial(learn_phrases, vocabulary=vocabulary),
        learned=fingerprint_of_phrases,
    )


def _load(output: Location, attempt: int) -> "PhraseAnnotator":
    lexicon = read_lexicon(output)
    return PhraseAnnotator(lexicon, Reader(read_stored(output)))


class _Named(NamedTuple):
    """An aspect that a review names, as texts write it: alone, and with what praises it, if any."""

    aspect: Aspect
    written: str
    phrase: str


class _Praise:
    """What reviews say about an aspect, and the phrase that praises it."""

    def __init__(self, named: Sequence[_Named]):
        counts = Counter(each.aspect.sentiment for each in named)
        self.num_positive, self.num_negative = counts["positive"], counts["negative"]
        self.written = named[0].written
        phrases = Counter(each.phrase for each in named if each.aspect.sentiment == "positive")
        with_adjective = [phrase for phrase in phrases if phrase != self.written]
        self.phrase = max(with_adjective or [self.written], key=lambda each: (phrases[each], each))


class PhraseAnnotator:
    """An `Annotator` that names what reviews praise."""

    def __init__(self, lexicon: Lexicon, reader: Reader):
        self._lexicon, self._reader = lexicon, reader

    def write(self, rows: Sequence[Input]) -> Written:
        """See Annotator; the cost is the number of pairs whose review is not in English."""
        self._reader.parse(review.text for row in rows for review in row.shown)
        reviews = [row.review for row in rows if isinstance(row, PairInput)]
        num_foreign = sum(self._reader.mentions(review.text) is None for review in reviews)
        return Written([self._text(row) for row in rows], {OTHER_LANGUAGE: num_foreign})

    def _text(self, row: Input) -> Text:
        match row:
            case ItemInput():
                return self._item(row)
            case UserInput():
                return self._user(row)
            case PairInput():
                return self._pair(row)

    def _item(self, row: ItemInput) -> ItemText:
        title, praise = row.title or self._called(row.reviews), self._praise(row.reviews)
        blamed = [
            (-each.num_negative, name, each.written)
            for name, each in praise.items()
            if each.num_negative >= max(_MIN_COMPLAINTS, each.num_positive + 1)
        ]
        complaints = [written for *_, written in sorted(blamed)[:_MAX_COMPLAINTS]]
        praised = self._best(praise, len(row.reviews), title)
        profile = item_profile(row.item_id, row.details, praised, complaints)
        return ItemText(title, profile, title_is_made=bool(title) and not row.title)

    def _user(self, row: UserInput) -> UserText:
        praise = self._praise(row.shown)
        items = [reviewed.item for reviewed in row.reviews]
        titles = dict.fromkeys(
            item.title for item in items if item and item.title and not item.title_is_made
        )
        praised = self._best(praise, len(row.reviews), "")
        return UserText(user_profile(row.user_id, praised, list(titles)[:_MAX_TITLES]))

    def _pair(self, row: PairInput) -> PairText:
        named, title = self._named(row.review), row.item.title if row.item else ""
        aspects = tuple(each.aspect for each in named)
        praised = [
            each
            for each in named
            if each.aspect.sentiment == "positive" and not _is_in(each.aspect.aspect, title)
        ]
        # Desk staff is staff: among aspects with the same noun, only the best is named.
        by_noun: dict[str, _Named] = {}
        for each in sorted(praised, key=self._weight, reverse=True):
            by_noun.setdefault(each.aspect.aspect.rpartition(" ")[2], each)
        best = list(by_noun.values())[:_NAMED_IN_EXPLANATION]
        if not best:
            return PairText("", aspects)
        phrases = [each.phrase for each in praised if each in best]
        return PairText(explanation(row.user_id, row.item_id, title, phrases), aspects)

    def _named(self, review: Review) -> list[_Named]:
        """Return the aspects that a review names, without duplicates, in the review's order."""
        best: dict[str, _Named] = {}
        mentions = self._reader.mentions(review.text) or ()
        topics = {mention.names[-1] for mention in mentions if "topic" in mention.roles}
        for mention in mentions:
            known = self._lexicon.aspect_of(mention)
            if known is None or known[0].rpartition(" ")[2] in topics:
                continue  # what is said about "this light" is said about the item
            (name, written), opinion = known, mention.opinion
            phrase = written if name.startswith(opinion) else f"{opinion} {written}"
            each = _Named(Aspect(name, opinion, mention.sentiment), written, phrase)
            if name not in best or self._weight(each) > self._weight(best[name]):
                best[name] = each
        return list(best.values())

    def _called(self, reviews: Sequence[Review]) -> str:
        """Return what reviews call an item without a title, such as `this film`; "" if unknown."""
        names: list[str] = []
        for review in reviews:
            mentions = self._reader.mentions(review.text) or ()
            names += sorted({each.names[-1] for each in mentions if "pointed" in each.roles})
        return self._lexicon.called(names)

    def _praise(self, reviews: Iterable[Review]) -> dict[str, _Praise]:
        named: defaultdict[str, list[_Named]] = defaultdict(list)
        for each in (each for review in reviews for each in self._named(review)):
            named[each.aspect.aspect].append(each)
        return {name: _Praise(all_) for name, all_ in named.items()}

    def _best(self, praise: Mapping[str, _Praise], num_reviews: int, title: str) -> list[str]:
        """Return the phrases of the most praised aspects; praise of rarer aspects counts more."""
        liked = [
            (-each.num_positive * self._rarity(name), name)
            for name, each in praise.items()
            if each.num_positive > each.num_negative
            and each.num_positive >= _MIN_SHARE * num_reviews
            and not _is_in(name, title)
        ]
        return [praise[name].phrase for _, name in sorted(liked)[:_NAMED_IN_PROFILE]]

    def _weight(self, each: _Named) -> float:
        sentiment, is_shown = each.aspect.sentiment, each.phrase != each.written
        weight = _WITH_ADJECTIVE if sentiment == "positive" and is_shown else _WEIGHTS[sentiment]
        return weight * math.sqrt(self._rarity(each.aspect.aspect))

    def _rarity(self, name: str) -> float:
        count = self._lexicon.num_reviews.get(name, 0)
        return math.log((2 + self._lexicon.num_learned) / (1 + count))


def _is_in(aspect: str, title: str) -> bool:
    """Return whether a title already names the aspect, as "guitar strap" names "strap"."""
    words = {singular(word) for word in title.lower().split()}
    return {singular(word) for word in aspect.split(" ")} <= words
