"""The noun phrases of a text, each with the opinion on it, if the text has one nearby.

"the tone is very warm" and "a warm tone" both give tone, warm. A negation turns an opinion around.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from xrec.annotate.annotator import Sentiment
from xrec.annotate.phrases.grammar import (
    ADJECTIVE,
    ADVERB,
    AND,
    NAME,
    NOUN,
    Clause,
    clauses,
    valence,
)
from xrec.annotate.phrases.opinion import opinion_on
from xrec.data.english import singular

MOST_WORDS = 3  # of a noun phrase
_MAY_STAND_BETWEEN = frozenset({ADJECTIVE, ADVERB, AND, NAME})


@dataclass(frozen=True, slots=True)
class Phrase:
    """A noun phrase where it stands.

    names: what it may be called, in the singular, the longest first: it, and its last words.
    written: the same as they are written. modifier: an adjective before it that only describes.
    is_named: whether a name stands before it, as in `Dunlop strap`.
    points: whether the text says `this` or `these` of it, as one does of the item itself.
    opinion: an adjective, or empty.
    is_described: whether anything nearby says how it is, as people say of what they judge.
    """

    names: tuple[str, ...]
    written: tuple[str, ...]
    modifier: str
    is_named: bool
    points: bool
    opinion: str
    sentiment: Sentiment
    is_described: bool


@functools.lru_cache(1024)  # titles and praise are looked for in the same reviews of an item
def parsed(text: str) -> tuple[tuple[Phrase, ...], frozenset[str]]:
    """The noun phrases of a text in its order, and the proper names in it.

    A name is a capitalized word within a sentence, or two of them in a row.
    """
    phrases: list[Phrase] = []
    names: set[str] = set()
    for clause in clauses(text):
        phrases += _noun_phrases(clause)
        if NAME in clause.parts:
            names.update(_proper_names(clause))
    return tuple(phrases), frozenset(names)


def noun_phrases(text: str) -> tuple[Phrase, ...]:
    """The noun phrases of a text, in its order."""
    return parsed(text)[0]


def proper_names(text: str) -> frozenset[str]:
    """Names in the middle of a sentence: each run of capitalized words, two at most, and each."""
    return parsed(text)[1]


def _noun_phrases(clause: Clause) -> Iterator[Phrase]:
    parts = clause.parts
    place, end = 0, len(parts)
    while place < end:
        if parts[place] != NOUN:
            place += 1
            continue
        start = place
        while place < end and parts[place] == NOUN:
            place += 1
        yield _phrase(clause, start, place)


def _proper_names(clause: Clause) -> Iterator[str]:
    before = ""
    for word, part in zip(clause.written, clause.parts, strict=True):
        if part != NAME or len(word) < 3 or not word[1:].islower() or word.startswith("I'"):
            before = ""
            continue
        yield word
        if before:
            yield f"{before} {word}"
        before = word


def _phrase(clause: Clause, start: int, stop: int) -> Phrase:
    lower = clause.lower[max(start, stop - MOST_WORDS) : stop]
    names = [*lower[:-1], singular(lower[-1])]
    said = opinion_on(clause, start, stop)
    modifier = ""
    if start and clause.parts[start - 1] == ADJECTIVE and not valence(clause.lower[start - 1]):
        modifier = clause.lower[start - 1]
    return Phrase(
        tuple(" ".join(names[first:]) for first in range(len(names))),
        tuple(" ".join(lower[first:]) for first in range(len(lower))),
        modifier,
        bool(start) and clause.parts[start - 1] == NAME,
        _points(clause, start),
        said.adjective,
        _sentiment(said.strength),
        said.is_described,
    )


def _sentiment(strength: float) -> Sentiment:
    return "neutral" if strength == 0 else "positive" if strength > 0 else "negative"


def _points(clause: Clause, start: int) -> bool:
    """Whether `this` or `these` stands before the phrase, with nothing but adjectives between."""
    place = start - 1
    while place >= 0 and clause.parts[place] in _MAY_STAND_BETWEEN:
        place -= 1
    return place >= 0 and clause.lower[place] in ("this", "these")
