"""What profiles and explanations praise: noun phrases, with the adjectives that describe them.

They are no reviews. "Fans of craft cocktails and a cozy atmosphere would enjoy The Owl, despite the
wait" is one list of reasons, of which craft cocktails and the cozy atmosphere tell something of the
place. Whom it suits, its name, caveats and praise that fits anything do not.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from xrec.annotate.phrases.grammar import (
    ADJECTIVE,
    ADVERB,
    AND,
    NAME,
    NOT,
    NOUN,
    STOP,
    VERB,
    Clause,
    Part,
    clauses,
    valence,
)
from xrec.annotate.phrases.profile_words import (
    ABOVE_ALL,
    ADJECTIVE_ENDINGS,
    ADJECTIVES,
    AIRS,
    ALWAYS_CAPITAL,
    CAVEATS,
    CAVEATS_END,
    COMPOUNDS,
    CUT_OFF,
    EMPTY,
    HARMLESS,
    HAVE_AIRS,
    KINDS,
    LOVERS,
    NEVER,
    NOUNS,
    PEOPLE,
    PEOPLE_ENDINGS,
    PEOPLES,
    PLAIN,
    SPELLINGS,
    TAILS,
)
from xrec.annotate.vocabulary import normalized
from xrec.data.english import singular

Reason = Mapping[str, str]
"""A noun phrase by all names that it may have, in normal form; of each how it is written."""

_AFTER_NOUNS = frozenset({"in", "at", "with", "near", "would"})
_OF_PEOPLE = frozenset({"looking", "specializing", "participating", "living", "dining"})
_MOST_NOUNS, _MOST_ADJECTIVES = 3, 2
_BLAME = -0.2
_LOVER, _PERSON = "F", "U"
_COMPOUNDS = {words.replace(" ", "-"): words for words in COMPOUNDS}
_AND = r" (?:and|&|n) "
_COMPOUND = re.compile(
    rf"\b(?:{'|'.join(words.replace(' and ', _AND) for words in COMPOUNDS)})\b", re.IGNORECASE
)


def reasons(text: str) -> Iterator[Reason]:
    """The reasons of a text, in its order; each has a name or more."""
    for clause in clauses(_COMPOUND.sub(_hyphenated, text)):
        parts = _parts(clause)
        place = 0
        while place < len(parts):
            start = place
            while place < len(parts) and parts[place] == NOUN:
                place += 1
            if place == start:
                place += 1
                continue
            yield from filter(None, _reasons(clause, parts, start, place))


def _hyphenated(compound: re.Match[str]) -> str:
    return re.sub(_AND, "-and-", compound[0], flags=re.IGNORECASE).replace(" ", "-")


def _parts(clause: Clause) -> list[Part]:
    """The clause's parts of speech, with the words that profiles use in their own way."""
    parts: list[Part] = []
    is_caveat = False
    for place, (lower, part) in enumerate(zip(clause.lower, clause.parts, strict=True)):
        is_caveat = (is_caveat and lower not in CAVEATS_END) or lower in CAVEATS or part == NOT
        parts.append(STOP if is_caveat else _part(clause, place, lower, part))
    return parts


def _part(clause: Clause, place: int, lower: str, part: Part) -> Part:
    if lower in LOVERS:
        return _LOVER
    if lower in PEOPLE or lower.endswith(PEOPLE_ENDINGS):
        return _PERSON
    if lower in PEOPLES or lower in ADJECTIVES:
        return ADJECTIVE
    if lower in _COMPOUNDS or (lower in NOUNS and not _is_of_a_name(clause, place)):
        return NOUN
    if "-" in lower and lower.rpartition("-")[2] in ADJECTIVE_ENDINGS:
        return ADJECTIVE
    following = clause.parts[place + 1] if place + 1 < len(clause.parts) else AND
    if part == VERB and lower.endswith("ed") and following == NOUN:
        return ADJECTIVE
    if part == VERB and lower.endswith("ing") and following == AND:
        return NOUN  # "swimming, fishing and hiking"
    if part == VERB and lower.endswith("ing") and _ends_a_noun(clause, place):
        return NOUN  # "horseback riding in the hills"
    return part


def _is_of_a_name(clause: Clause, place: int) -> bool:
    """Whether the word is part of a name in several words: "Club Quarters"."""
    if clause.parts[place] != NAME or clause.lower[place] in ALWAYS_CAPITAL:
        return False
    return NAME in (*clause.parts[max(0, place - 1) : place], *clause.parts[place + 1 : place + 2])


def _ends_a_noun(clause: Clause, place: int) -> bool:
    """Whether a noun stands before the word, and behind it nothing that it would do."""
    if not place or clause.parts[place - 1] != NOUN or clause.lower[place] in _OF_PEOPLE:
        return False
    rest = place + 1
    return rest == len(clause.parts) or (
        clause.parts[rest] == STOP and clause.lower[rest] in _AFTER_NOUNS
    )


def _reasons(clause: Clause, parts: Sequence[Part], start: int, stop: int) -> list[Reason]:
    """The noun phrase as one reason, or as several kinds of a thing: "Thai and Lao food"."""
    is_name = start > 0 and parts[start - 1] == NAME
    is_of_people = stop < len(parts) and parts[stop] == _PERSON
    nouns = clause.lower[max(start, stop - _MOST_NOUNS) : stop]
    adjectives = _adjectives(clause, parts, start)
    words = {*nouns, *(word for group in adjectives for word in group)}
    if is_name or is_of_people or any(map(_blames, words)):
        return []
    if not adjectives and start and clause.lower[start - 1] == "this":
        return []  # "would enjoy this hotel": it is what the profile is of
    while len(nouns) > 1 and singular(nouns[-1]) in TAILS and not _has_an_air(nouns):
        nouns = nouns[:-1]
    if singular(nouns[-1]) in NEVER or nouns[-1].startswith("non-"):
        return []
    described = [[word for word in group if word not in EMPTY] for group in adjectives]
    if all(group and group[-1] in KINDS for group in described):
        return [_names([group], nouns) for group in described or [[]]]
    return [_names(described, nouns)]


def _has_an_air(nouns: Sequence[str]) -> bool:
    return singular(nouns[-1]) in AIRS and singular(nouns[-2]) in HAVE_AIRS


def _blames(word: str) -> bool:
    return valence(word) < _BLAME and word not in HARMLESS


def _names(adjectives: Sequence[Sequence[str]], nouns: Sequence[str]) -> Reason:
    """All names of a noun phrase, the longest first; none if nothing describes a plain noun."""
    phrases = [
        [*group[first:], *nouns]
        for group in adjectives
        for first in range(max(0, len(group) - _MOST_ADJECTIVES), len(group))
    ]
    phrases += [list(nouns[first:]) for first in range(len(nouns))]
    phrases = [words for words in phrases if words[0] not in CUT_OFF]
    if singular(nouns[-1]) in PLAIN:
        phrases = [words for words in phrases if len(words) > 1]
    phrases.sort(key=len, reverse=True)
    return {normalized(_spelled(words)): _written(words) for words in phrases}


def _spelled(words: Sequence[str]) -> str:
    return _written([SPELLINGS.get(word, word) for word in words])


def _written(words: Sequence[str]) -> str:
    """The words, with compounds in several words again."""
    return " ".join(_COMPOUNDS.get(word, word) for word in words)


def _adjectives(clause: Clause, parts: Sequence[Part], start: int) -> list[list[str]]:
    """The adjectives before a noun, in groups: "fresh Thai and Lao" are fresh Thai, and Lao."""
    groups: list[list[str]] = [[]]
    place = start - 1
    if place >= 0 and parts[place] == AND:
        return []  # "vegetarian and meat options": the adjective is another noun's
    while place >= 0 and parts[place] in (ADJECTIVE, ADVERB, AND):
        if parts[place] == AND:
            if place == 0 or parts[place - 1] not in (ADJECTIVE, AND):
                break
            groups.append([])
        elif parts[place] == ADJECTIVE:
            groups[-1].insert(0, _adjective(clause, place))
        elif parts[place + 1] == ADJECTIVE and _tells_how(clause.lower[place]):
            groups[-1][0] = f"{clause.lower[place]} {groups[-1][0]}"  # "locally sourced"
        place -= 1
    return [group for group in groups if group]


def _tells_how(adverb: str) -> bool:
    return adverb.endswith("ly") and adverb not in ABOVE_ALL


def _adjective(clause: Clause, place: int) -> str:
    """An adjective as it is written in lower case; "New York-style" is one."""
    word = clause.lower[place]
    is_of_two = place > 0 and "-" in word and clause.written[place - 1 : place] == ["New"]
    return f"new {word}" if is_of_two else word
