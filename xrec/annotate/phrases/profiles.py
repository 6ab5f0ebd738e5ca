"""Finds aspects in profiles that the user supplies: phrases that form a vocabulary.

In "Fans of craft cocktails and a cozy atmosphere would enjoy The Owl, despite the wait", craft
cocktails and the cozy atmosphere describe the place. Its name, its caveats and its audience do not.
A phrase is an aspect if neither too few nor too many profiles contain it, if its adjective does not
go with every noun ("great food" is just food), and if its noun says something by itself. For "fresh
handmade pasta", the item gets the longest name in the phrase that is an aspect.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from xrec.annotate.phrases.grammar import Token
from xrec.annotate.phrases.lexicon import names_nothing
from xrec.annotate.vocabulary import normalized
from xrec.data import NamedAspects
from xrec.data.language import parse, tags, valence, word_set
from xrec.errors import DataError

_MIN_ITEMS = 5  # whose profiles name an aspect; a rarer one tells little about users
_MAX_SHARE = 0.2  # of the items; a more frequent aspect does not tell them apart
_MAX_WORDS = 3
_BLAME = -0.35
_MIN_PRAISED = 0.5  # the share of a name's uses that praise it
_MIN_BARE = 0.3  # the share of a noun's uses without a description
_FREQUENT = 30  # uses of an adjective needed to tell which nouns it goes with
_MAX_NOUNS = 0.15  # an adjective's nouns per use; with more, it goes with any noun
_PLURAL = 0.25  # the share of plurals among a name's uses that makes it plural
_MIN_ENJOYING = 0.1  # share of a noun's uses as the one who enjoys, if it means people
_ENJOYS = word_set("enjoy like love appreciate prefer value find seek want look")
_CAVEATS = word_set(
    "despite however although though without except unless but tolerate overlook mind lack "
    "sensitive"
)
_DENYING = ("mark", "advmod")
_BEFORE = ("NOUN", "ADJ", "VERB")
_ADJECTIVES = word_set("JJ JJR JJS")
_KEPT_WORDS = re.compile(r"[a-z][a-z'-]*")


@dataclass(frozen=True, slots=True)
class Reason:
    """A noun phrase: its words in lowercase, the noun last; the first ones may be adjectives.

    is_enjoying: whether it is the subject of a verb such as enjoy, as people are.
    is_item: whether it means the item itself ("this pub").
    is_filler: whether something is for it ("for families"), or it measures something ("a mix of
        books").
    """

    words: tuple[str, ...]
    num_adjectives: int
    is_enjoying: bool = False
    is_item: bool = False
    is_filler: bool = False

    @property
    def names(self) -> Iterator[tuple[str, ...]]:
        """Possible names, longest first: the whole phrase, then only its last words."""
        return (self.words[first:] for first in range(len(self.words)))


def find_aspects(
    profiles: Sequence[str],
    explanations: Sequence[str],
    *,
    min_items: int = _MIN_ITEMS,
    max_share: float = _MAX_SHARE,
) -> NamedAspects:
    """Return the aspects, most frequent first, and those of each profile and explanation.

    At least `min_items` profiles have an aspect, and at most this share of those with a text. An
    explanation names the parts of a phrase too: "friendly waiters" also names waiters, if that is
    an aspect. Raises DataError if there are none, ModelError if the parser cannot be loaded.
    """
    found = [list(_reasons(doc)) for doc in parse(profiles)]
    of_texts = [list(_reasons(doc)) for doc in parse(explanations)]
    people = _people([*found, *of_texts])
    praised, explained = (
        [[each for reason in some for each in _praised(reason, people)] for some in texts]
        for texts in (found, of_texts)
    )
    num_profiles = Counter(name for some in praised for name in _all_names(some))
    joined = _Joined(praised)
    most = max(min_items, max_share * sum(map(bool, profiles)))
    vocabulary = [
        name
        for name, count in sorted(num_profiles.items(), key=lambda each: (-each[1], each[0]))
        if min_items <= count <= most and joined.belong(name)
    ]
    if not vocabulary:
        raise DataError(
            f"aspects_from: no phrase is in the profiles of {min_items} to {most:.0f} items; got "
            f"{len(profiles)} items and {len(num_profiles)} phrases; add profiles, or remove "
            "aspects_from",
            code="no_aspects",
            key="aspects_from",
            saw=len(num_profiles),
        )
    numbers = {name: number for number, name in enumerate(vocabulary)}
    items = {each.words[-1] for some in found for each in some if each.is_item}
    written = _written(praised, items)
    longest = [
        [next((key for key in map(_key, reason.names) if key in numbers), None) for reason in some]
        for some in praised
    ]
    return NamedAspects(
        [written[name] for name in vocabulary],
        [list(dict.fromkeys(numbers[key] for key in some if key)) for some in longest],
        [[numbers[name] for name in _all_names(some) if name in numbers] for some in explained],
    )


def _reasons(doc: Any) -> Iterator[Reason]:
    """Yield the noun phrases of a parsed text that are not caveats."""
    for noun in doc:
        is_noun = noun.pos_ == "NOUN" or (noun.pos_ == "PROPN" and noun.is_lower)
        is_joined = any(  # neither word of "laid-back" is a thing
            each.text == "-" and not each.whitespace_
            for each in doc[max(0, noun.i - 1) : noun.i + 2]
        )
        if not is_noun or is_joined or noun.dep_ == "compound" or _is_caveat(noun):
            continue
        before, start = _before(noun)
        words = (*(word for word, _ in before), noun.lower_)
        is_named = start > 0 and noun.doc[start - 1].pos_ == "PROPN"
        is_pointed = any(each.lower_ in ("this", "these") for each in noun.children)
        if is_named or any(valence(word) < _BLAME for word in words):
            continue
        if all(map(_KEPT_WORDS.fullmatch, words)):
            num_adjectives = sum(is_adjective for _, is_adjective in before)
            is_enjoying = noun.dep_ == "nsubj" and noun.head.lemma_.lower() in _ENJOYS
            yield Reason(words, num_adjectives, is_enjoying, is_pointed, _is_filler(noun))


def _before(noun: Token) -> tuple[list[tuple[str, bool]], int]:
    """Return up to two words before a noun that belong to it, and where they start.

    Each word is paired with whether it is an adjective. "Dog-friendly" is one word.
    """
    before: list[tuple[str, bool]] = []
    start = noun.i
    while start > 0 and len(before) < _MAX_WORDS - 1:
        each = noun.doc[start - 1]
        if each.dep_ not in ("compound", "amod") or each.pos_ not in _BEFORE:
            break
        start, word, is_adjective = start - 1, each.lower_, each.dep_ == "amod"
        while start > 1 and noun.doc[start - 1].text == "-" and not noun.doc[start - 1].whitespace_:
            start, is_adjective = start - 2, True
            word = f"{noun.doc[start].lower_}-{word}"
        before.insert(0, (word, is_adjective))
    return before, start


def _is_caveat(noun: Token) -> bool:
    """Return whether a noun follows "despite" or "however", or has to be tolerated."""
    return any(
        each.lemma_.lower() in _CAVEATS
        or any(
            child.dep_ == "neg" or (child.dep_ in _DENYING and child.lower_ in _CAVEATS)
            for child in each.children
        )
        for each in noun.ancestors
    )


def _is_filler(noun: Token) -> bool:
    if any(each.dep_ == "prep" and each.lower_ == "of" for each in noun.children):
        return True
    is_its = any(each.dep_ == "poss" for each in noun.children)
    return noun.dep_ == "pobj" and noun.head.lower_ == "for" and not is_its


def _people(found: Iterable[Sequence[Reason]]) -> set[str]:
    """Return the nouns for people who enjoy something, such as fans and families."""
    counts: Counter[str] = Counter()
    enjoying: Counter[str] = Counter()
    for reason in (reason for some in found for reason in some):
        counts[reason.words[-1]] += 1
        enjoying[reason.words[-1]] += reason.is_enjoying
    return {word for word in counts if enjoying[word] >= _MIN_ENJOYING * counts[word]}


def _praised(reason: Reason, people: set[str]) -> list[Reason]:
    """Return the reason; for "coffee lovers", what they love; for the item itself, nothing."""
    if reason.is_item:
        return []
    if reason.words[-1] not in people:
        return [reason]
    loved = reason.words[reason.num_adjectives : -1]
    return [Reason(loved, 0)] if loved else []


def _all_names(found: Iterable[Reason]) -> list[str]:
    """Return all names in normal form, without duplicates, in order."""
    return list(dict.fromkeys(_key(name) for reason in found for name in reason.names))


def _key(words: Sequence[str]) -> str:
    return normalized(" ".join(words))


class _Joined:
    """How often names, adjectives and nouns are used."""

    def __init__(self, found: Iterable[Sequence[Reason]]):
        reasons = [reason for some in found for reason in some]
        self._names: Counter[str] = Counter()
        self._praised: Counter[str] = Counter()
        self._adjectives: Counter[str] = Counter()
        self._nouns_of: defaultdict[str, set[str]] = defaultdict(set)
        self._described: set[str] = set()
        for reason in reasons:
            for place, name in enumerate(reason.names):
                self._names[_key(name)] += 1
                self._praised[_key(name)] += not reason.is_filler
                if place < reason.num_adjectives:
                    self._adjectives[name[0]] += 1
                    self._nouns_of[name[0]].add(name[-1])
                    self._described.add(_key(name))
        self._bare = Counter(
            _key(reason.words[-1:])
            for reason in reasons
            if not reason.is_filler
            and all(valence(word) > 0 and self._is_general(word) for word in reason.words[:-1])
        )

    def belong(self, name: str) -> bool:
        """Return whether a name says something about an item."""
        first, _, rest = name.partition(" ")
        if self._praised[name] < _MIN_PRAISED * self._names[name] or names_nothing(name):
            return False
        if not rest:
            return (
                tags().get(name) not in _ADJECTIVES
                and self._bare[name] >= _MIN_BARE * self._names[name]
            )
        return name not in self._described or not self._is_general(first)

    def _is_general(self, adjective: str) -> bool:
        """Return whether an adjective goes with any noun, as "great" does."""
        count = self._adjectives[adjective]
        return count >= _FREQUENT and len(self._nouns_of[adjective]) > _MAX_NOUNS * count


def _written(found: Sequence[Sequence[Reason]], items: set[str]) -> dict[str, str]:
    """Return the most frequent form of each name, or its plural if that is frequent enough.

    Despite "book lovers", for example, the form is "books". Nouns for items (`items`) stay
    singular: the item that "fans of Irish pubs would enjoy" is one pub.
    """
    ways: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for reason in (reason for some in found for reason in some):
        for name in reason.names:
            ways[_key(name)][" ".join(name)] += 1
    written = {}
    for key, counts in ways.items():
        least = _PLURAL * counts.total()
        plurals = [way for way in counts if way != key and counts[way] >= least]
        best = max(plurals or counts, key=lambda way: (counts[way], way))
        written[key] = key if key.rpartition(" ")[2] in items else best
    return written
