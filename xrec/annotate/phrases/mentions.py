"""The noun phrases of a text, each with the opinion on it, if the text has one nearby.

"the tone is very warm" and "a warm tone" both give tone, warm. A negation turns an opinion around.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from xrec.annotate.phrases.grammar import (
    ADJECTIVE,
    ADVERB,
    AND,
    LINK,
    NAME,
    NOT,
    NOUN,
    STOP,
    VERB,
    Clause,
    clauses,
    describes,
    valence,
)
from xrec.annotate.rows import Sentiment
from xrec.data.english import singular, word_set

MOST_WORDS = 3  # of a noun phrase
_BEFORE, _AFTER, _NEGATED, _LINK_WITHIN, _EARLIER = 6, 5, 4, 2, 3  # how far words look for others
_MAY_STAND_BEFORE = frozenset({ADVERB, AND})
_MAY_STAND_BETWEEN = frozenset({ADJECTIVE, ADVERB, AND, NAME})
_MAY_STAND_BEHIND = frozenset({ADVERB, AND, NOT, STOP})
_CONDITIONS = word_set("if unless whether")
_WISHES, _MIGHT = word_set("wish wished"), word_set("could should")
_EXPECTS = word_set("expected expecting hoped hoping wanted promised promises advertised claims")
_AS = word_set("as than what when")
_MORE = word_set("more better")
_SEEKS = word_set("find get ask imagine")
_FAR_FROM = ["far", "from"]
_LOVES = word_set("love loved loves like liked likes enjoy enjoyed appreciate adore")


@dataclass(frozen=True, slots=True)
class Phrase:
    """A noun phrase where it stands.

    names: what it may be called, in the singular, the longest first: it, and its last words.
    written: the same as they are written. modifier: an adjective before it that only describes.
    is_named: whether a name stands before it, as in `Dunlop strap`.
    points: whether the text says `this` or `these` of it, as one does of the item itself.
    opinion: an adjective, or empty.
    has_opinion: whether anything nearby says how good it is.
    """

    names: tuple[str, ...]
    written: tuple[str, ...]
    modifier: str
    is_named: bool
    points: bool
    opinion: str
    sentiment: Sentiment
    has_opinion: bool


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
    opinion, strength = _opinion(clause, start, stop)
    if strength > 0 and (meant := _as_meant(clause, start, stop, strength)) != strength:
        opinion, strength = "", meant
    modifier = ""
    if start and clause.parts[start - 1] == ADJECTIVE and not valence(clause.lower[start - 1]):
        modifier = clause.lower[start - 1]
    return Phrase(
        tuple(" ".join(names[first:]) for first in range(len(names))),
        tuple(" ".join(lower[first:]) for first in range(len(lower))),
        modifier,
        bool(start) and clause.parts[start - 1] == NAME,
        _points(clause, start),
        opinion,
        "neutral" if strength == 0 else "positive" if strength > 0 else "negative",
        strength != 0,
    )


def _as_meant(clause: Clause, start: int, stop: int, praise: float) -> float:
    """What is left of praise that is wished for, asked for, expected, or said of a condition.

    "I wish it had a warm tone" and "it could have a warmer tone" blame; "expected great quality"
    and "if you want great quality" say nothing. What stands behind a comma is said again.
    """
    for place in range(start - 1, -1, -1):
        word = clause.lower[place]
        if word == "but" or (word == "," and not _parts_adjectives(clause, place)):
            break
        if word in _CONDITIONS:
            return 0.0
        if word in _EXPECTS:
            earlier = range(max(0, place - _EARLIER), place)
            if any(clause.parts[each] == NOT or clause.lower[each] in _AS for each in earlier):
                break  # "I was not expecting such quality", "better than expected"
            return 0.0
        if word in _WISHES and NOT not in clause.parts[place:stop]:
            return -praise
        if word in _MIGHT and place >= start - _BEFORE and NOT not in clause.parts[place:stop]:
            return -praise if _asks_for_more(clause, place, stop) else 0.0
    return praise


def _parts_adjectives(clause: Clause, comma: int) -> bool:
    return clause.parts[comma - 1 : comma + 2 : 2] == [ADJECTIVE, ADJECTIVE]


def _asks_for_more(clause: Clause, start: int, stop: int) -> bool:
    """Whether the words ask for more than there is: "a warmer tone", "more pleasant"."""
    return any(
        word in _MORE or (part == ADJECTIVE and word.endswith("er"))
        for word, part in zip(clause.lower[start:stop], clause.parts[start:stop], strict=True)
    )


def _points(clause: Clause, start: int) -> bool:
    """Whether `this` or `these` stands before the phrase, with nothing but adjectives between."""
    place = start - 1
    while place >= 0 and clause.parts[place] in _MAY_STAND_BETWEEN:
        place -= 1
    return place >= 0 and clause.lower[place] in ("this", "these")


def _opinion(clause: Clause, start: int, stop: int) -> tuple[str, float]:
    """The adjective on a noun phrase and how good it makes it; ("", 0) if there is nothing.

    It may stand before the noun, behind a verb such as `is`, or be a verb such as `love`.
    """
    if start and clause.parts[start - 1] == NOT:
        return "", -0.5
    before = range(start - 1, max(-1, start - 1 - _BEFORE), -1)
    found = _adjective(clause, before, _MAY_STAND_BEFORE)
    if found is None and (link := _link(clause, stop)) is not None:
        after = range(link + 1, min(len(clause.parts), link + 1 + _AFTER))
        found = _adjective(clause, after, _MAY_STAND_BEHIND)
    if found is not None:
        return found
    if not _LOVES.isdisjoint(clause.lower[max(0, start - _AFTER) : start]):
        return "", -0.5 if NOT in clause.parts[:start] else 0.5
    return "", 0.0


def _adjective(
    clause: Clause, places: range, may_stand: frozenset[str]
) -> tuple[str, float] | None:
    """The first adjective at `places` that says how good something is, and how good; or None.

    It is empty if it is not to be shown.
    """
    for place in places:
        part = clause.parts[place]
        if part == ADJECTIVE:
            word = clause.lower[place]
            if strength := valence(word):
                is_negated = _is_negated(clause, place)
                is_shown = strength > 0 and not is_negated and describes(word)
                return word if is_shown else "", -strength if is_negated else strength
        elif part not in may_stand:
            break
    return None


def _is_negated(clause: Clause, place: int) -> bool:
    """Whether the words before an adjective turn it around; "not find a more pleasant" does not."""
    if clause.lower[max(0, place - len(_FAR_FROM)) : place] == _FAR_FROM:
        return True
    earlier = clause.lower[max(0, place - _NEGATED) : place]
    has_none_more = not _MORE.isdisjoint(earlier) and not _SEEKS.isdisjoint(earlier)
    return NOT in clause.parts[max(0, place - _NEGATED) : place] and not has_none_more


def _link(clause: Clause, stop: int) -> int | None:
    """The place of the verb such as `is` behind a noun phrase, if no other noun's is nearer."""
    for place in range(stop, min(len(clause.parts), stop + _LINK_WITHIN)):
        part = clause.parts[place]
        if part == LINK:
            return place
        if part not in (ADVERB, VERB):
            return None
    return None
