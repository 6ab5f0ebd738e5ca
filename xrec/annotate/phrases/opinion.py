"""What a sentence says of a noun in it: how good or bad that is, and by which adjective.

It is read from the parse. A negation turns an opinion around, what is too much of something is
blame, and a condition, a wish or a question praises nothing.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

from xrec.data.english import word_set

Token = Any
"""A token of spaCy."""
Valence = Callable[[str], float]
"""How good or bad a word sounds, from -1 to 1."""
LOVED = 0.5  # strength of a judgement that no adjective makes
# Adjectives of order, identity and quantity, and lukewarm ones: they praise nothing, whatever the
# lexicons say.
NO_OPINION = word_set(
    "own first last next second third other same such many much more most few several certain "
    "different only whole entire total main new old original available able sure right real true "
    "full special particular important popular worth alright okay overall general possible likely "
    "necessary very ok acceptable adequate decent fair average satisfactory standard challenging "
    "complimentary ready free large big huge small little high low long short light single various"
)
_CONDITIONS = word_set("if unless whether")
_WISHES = word_set("wish hope want need expect")
_MIGHT = word_set("could should would might may")
_MORE = word_set("JJR RBR")
_NEAR = word_set("near nearby close around across within outside everywhere")
_NOT_ONLY = word_set("only just merely")
_BEATEN = word_set("beat fault")  # "you can't beat the price"


def first_of(noun: Token) -> Token:
    """The noun that "and" joins this one to, whose place in the sentence is its own too."""
    return noun.head if noun.dep_ == "conj" and noun.head.pos_ == "NOUN" else noun


def said_of(value: Valence, noun: Token) -> tuple[str, float]:
    """What its adjectives, or else the verb around it, say of a noun: opinion and strength."""

    def is_known(adjective: Token) -> bool:
        return adjective.lower_ in NO_OPINION or value(adjective.lower_) != 0

    own = [each for each in noun.children if each.dep_ == "amod" and each.pos_ == "ADJ"]
    judged = [
        (each, judgement(value, each, noun)) for each in [*with_joined(own), *predicates(noun)]
    ]
    if any(found for _, found in judged) and not all(map(is_known, own[1:])):
        return "", 0.0  # great local color is no great color
    strength = next((found for _, found in judged if found), 0.0)
    if not strength:
        strength = _by_verb(value, noun)
    shown = next(
        (
            each.lower_
            for each, found in judged
            if found > 0 and each.tag_ == "JJ" and value(each.lower_) > 0
        ),
        "",
    )
    strength = strength * reality(noun) if strength > 0 else strength
    if strength > 0 and is_around(noun):
        return "", 0.0
    return shown if strength > 0 else "", strength


def is_around(noun: Token) -> bool:
    """Whether it is what the text finds around the item: "good restaurants are close by"."""
    if any(each.dep_ in ("det", "poss") for each in noun.children):
        return False
    near = [*noun.children, *noun.head.children, *noun.head.head.children]
    return any(each.lower_ in _NEAR and each.dep_ in ("advmod", "prep", "acomp") for each in near)


def with_joined(adjectives: list[Token]) -> Iterator[Token]:
    for each in adjectives:
        yield each
        yield from (other for other in each.conjuncts if other.pos_ == "ADJ")


def _subject_of(noun: Token) -> Token | None:
    """The verb of which the noun, or what it is joined to, is the subject."""
    first = first_of(noun)
    return first.head if first.dep_ in ("nsubj", "nsubjpass") else None


def predicates(noun: Token) -> Iterator[Token]:
    """Adjectives behind a verb such as `is` or `sounds` of which the noun is the subject."""
    verb = _subject_of(noun)
    if verb is not None:
        found = [
            each for each in verb.children if each.dep_ in ("acomp", "oprd") and each.pos_ == "ADJ"
        ]
        yield from with_joined(found)


def judgement(value: Valence, adjective: Token, of: Token) -> float:
    """How good an adjective makes what it is said of."""
    is_part = adjective.i > 0 and adjective.nbor(-1).text == "-"  # Dietrich-like
    strength = 0.0 if is_part or adjective.lower_ in NO_OPINION else value(adjective.lower_)
    if not strength:
        return 0.0
    if any(each.lower_ == "too" and each.dep_ == "advmod" for each in adjective.children):
        return -abs(strength)
    return -strength if is_denied(adjective, of) else strength


def is_denied(word: Token, of: Token) -> bool:
    """Whether the words around turn it around; of "couldn't be better" they do not."""
    places = [word, of, *([] if word.dep_ == "amod" else [word.head])]
    if of.dep_ in ("dobj", "attr", "pobj"):
        places.append(of.head)
    denials = [
        child
        for place in places
        for child in place.children
        if child.dep_ == "neg" or (child.dep_ == "det" and child.lower_ == "no")
    ]
    turned = any(
        each.i + 1 >= len(each.doc) or each.nbor().lower_ not in _NOT_ONLY for each in denials
    )
    is_absent = (of.dep_ == "pobj" and of.head.lower_ == "without") or (
        of.dep_ == "dobj" and of.head.lemma_ == "lack"
    )
    return (turned or is_absent) and word.tag_ not in _MORE


def _by_verb(value: Valence, noun: Token) -> float:
    """What a verb says of its subject ("the song rocks", "works well") or object ("I love")."""
    verb = _subject_of(noun)
    if verb is not None:
        does = verb.pos_ == "VERB" and all(each.dep_ != "dobj" for each in verb.children)
        strength = (value(verb.lemma_) or by_adverb(value, verb)) if does else 0.0
        nouns = (each for each in verb.children if each.dep_ == "attr" and each.pos_ == "NOUN")
        strength = strength or next((value(each.lemma_) for each in nouns), 0.0)
    else:
        first = first_of(noun)
        if first.dep_ != "dobj":
            return 0.0
        verb, strength = first.head, value(first.head.lemma_)
    turned = is_denied(verb, noun)
    if turned and verb.lemma_ in _BEATEN:
        return LOVED
    if not strength:
        return 0.0
    return math.copysign(LOVED, -strength if turned else strength)


def by_adverb(value: Valence, verb: Token) -> float:
    adverbs = (each for each in verb.children if each.dep_ == "advmod")
    return next((strength for each in adverbs if (strength := value(each.lower_))), 0.0)


def reality(token: Token) -> float:
    """What is left of praise: 1 of a fact, 0 of a condition or a question, less of a wish.

    "I wish it had a warm tone" and "it could have a warmer tone" blame.
    """
    if token.sent[-1].text == "?":
        return 0.0
    for verb in (token, *token.ancestors):
        words = {each.lower_: each.dep_ for each in verb.children}
        turned = "neg" in words.values()
        if not _CONDITIONS.isdisjoint(word for word, dep in words.items() if dep == "mark"):
            return 0.0
        if verb is not token and verb.lemma_ in _WISHES and not turned:
            return -1.0 if verb.lemma_ == "wish" else 0.0
        if not turned and any(dep == "aux" and word in _MIGHT for word, dep in words.items()):
            asks = any(each.tag_ in _MORE for each in verb.subtree)
            return -1.0 if asks else 1.0 if "would" in words else 0.0
    return 1.0
