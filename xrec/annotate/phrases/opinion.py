"""What a clause says of a noun phrase: how good or bad it is, and by which adjective.

A negation turns an opinion around; a wish, an expectation and a condition leave nothing of praise.
"""

from typing import NamedTuple

from xrec.annotate.phrases.grammar import (
    ADJECTIVE,
    ADVERB,
    AND,
    BEFORE_VERBS,
    LINK,
    NOT,
    STOP,
    VERB,
    Clause,
    describes,
    valence,
)
from xrec.data.english import word_set

_BEFORE, _AFTER, _NEGATED, _LINK_WITHIN, _EARLIER = 6, 5, 4, 2, 3  # how far words look for others
_MAY_STAND_BEFORE = frozenset({ADVERB, AND})
_MAY_STAND_BEHIND = frozenset({ADVERB, AND, NOT, STOP})
_CONDITIONS = word_set("if unless whether")
_WISHES, _MIGHT = word_set("wish wished"), word_set("could should")
_EXPECTS = word_set("expected expecting hoped hoping wanted promised promises advertised claims")
_AS = word_set("as than what when")
_MORE = word_set("more better")
_SEEKS = word_set("find get ask imagine")
_FAR_FROM = ["far", "from"]
_SAYS_WHAT_IT_IS = word_set(
    "little small smaller heavy slight dirty raw subtle complex previous past secondary other "
    "black white red green blue gray grey brown dark"
)
_LOVES = word_set("love loved loves like liked likes enjoy enjoyed appreciate adore")


class Opinion(NamedTuple):
    """What is said of a noun phrase.

    adjective: that praises it and may be shown, or empty. strength: from -1 (bad) to 1 (good).
    is_described: whether anything is said at all, such as that it is small, or wished for.
    """

    adjective: str
    strength: float
    is_described: bool


_NOTHING = Opinion("", 0.0, False)


def opinion_on(clause: Clause, start: int, stop: int) -> Opinion:
    """What the clause says of the noun phrase at `start` to `stop`."""
    said = _said(clause, start, stop)
    if said.strength > 0 and (meant := _as_meant(clause, start, stop, said.strength)) <= 0:
        return Opinion("", meant, True)
    return said


def _said(clause: Clause, start: int, stop: int) -> Opinion:
    """What the words say, as if nothing were wished, expected or a condition.

    An adjective may stand before the noun or behind a verb such as `is`; a verb such as `love` may
    stand before it.
    """
    if start and clause.parts[start - 1] == NOT:
        return Opinion("", -0.5, True)
    before = range(start - 1, max(-1, start - 1 - _BEFORE), -1)
    found = _adjective(clause, before, _MAY_STAND_BEFORE)
    if not found.strength and (link := _link(clause, stop)) is not None:
        after = range(link + 1, min(len(clause.parts), link + 1 + _AFTER))
        behind = _adjective(clause, after, _MAY_STAND_BEHIND)
        found = behind if behind.strength else found
    if found.strength:
        return found
    if any(_loves(clause, place) for place in range(max(0, start - _AFTER), start)):
        return Opinion("", -0.5 if NOT in clause.parts[:start] else 0.5, True)
    return found


def _loves(clause: Clause, place: int) -> bool:
    """Whether somebody loves what follows; in "it sounds more like a fuzz" nobody does."""
    if clause.lower[place] != "like":
        return clause.lower[place] in _LOVES
    before = place - 1
    while before >= 0 and clause.parts[before] == ADVERB:
        before -= 1
    if before < 0:
        return False  # "Like many guitarists"
    if clause.lower[before] in ("and", "but"):
        return clause.lower[place + 1 : place + 2] == ["the"]  # "but like the feel"
    return clause.lower[before] in BEFORE_VERBS or clause.parts[before] == NOT


def _adjective(clause: Clause, places: range, may_stand: frozenset[str]) -> Opinion:
    """What the first adjective at `places` says that tells how good something is."""
    found = _NOTHING
    for place in places:
        part = clause.parts[place]
        if part == ADJECTIVE:
            word = clause.lower[place]
            if strength := _strength(clause, place):
                is_negated = _is_negated(clause, place)
                is_shown = strength > 0 and not is_negated and describes(word)
                return Opinion(
                    word if is_shown else "", -strength if is_negated else strength, True
                )
            if valence(word):
                found = Opinion("", 0.0, True)
        elif part not in may_stand:
            break
    return found


def _strength(clause: Clause, place: int) -> float:
    """How good an adjective makes what it stands by; 0 if it only tells what it is like.

    A low price and a small box are no blame; a low quality and what is too small are.
    """
    word = clause.lower[place]
    nearby = clause.lower[max(0, place - _AFTER) : place + _EARLIER]
    is_plain = word in _SAYS_WHAT_IT_IS or (word == "low" and "quality" not in nearby)
    is_too_much = "too" in clause.lower[max(0, place - 1) : place]
    return 0.0 if is_plain and not is_too_much else valence(word)


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
