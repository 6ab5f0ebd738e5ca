"""What a sentence says of a noun in it: how good or bad that is, and by which adjective.

It is read from the parse. A negation turns an opinion around, what is too much of something is
blame, and a condition, a wish or a question praises nothing.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from xrec.data.english import is_noun, word_set

Token = Any
"""A token of spaCy."""
Valence = Callable[[str], float]
"""How good or bad a word sounds, from -1 to 1."""
LOVED = 0.5  # strength of a judgement that no adjective makes
# Adjectives of identity and measure, and lukewarm ones. Like stop words ("own", "many") they praise
# nothing, whatever their valence.
_NO_OPINION = word_set(
    "second certain different entire total main new old original available able sure right real "
    "true special particular important popular worth alright okay overall general possible likely "
    "necessary ok acceptable adequate decent fair average satisfactory standard normal exact cheap "
    "challenging complimentary shared ready free large big huge small little high low long short "
    "light single"
)
_CONDITIONS = word_set("if unless whether")
_WISHES = word_set("wish hope want need expect")
_MIGHT = word_set("could should would might may")
_MORE = word_set("JJR RBR")
_NOT_QUITE = word_set("enough almost nearly")
_NEAR = word_set("near nearby close around across within outside everywhere")
_NOT_ONLY = word_set("only just merely")
_BEATEN = word_set("beat fault")  # "you can't beat the price"
_HARD = word_set("hard difficult impossible tough")  # "it is hard to get a clean tone from it"


def has_no_opinion(adjective: Token) -> bool:
    """Whether an adjective praises and blames nothing, whatever its valence."""
    return adjective.is_stop or not _NO_OPINION.isdisjoint((adjective.lower_, adjective.lemma_))


def is_adjective(word: Token) -> bool:
    """Whether it describes the noun that it stands before; "sound" of sound quality names it."""
    return word.dep_ == "amod" and word.pos_ == "ADJ" and not is_noun(word.lower_)


def form_of(adjective: Token) -> str:
    """How it stands before a noun: of "sounds richer" the sound is rich; empty of another word."""
    is_one = adjective.tag_ in ("JJ", "JJR", "JJS")
    return ("good" if adjective.lemma_ == "well" else str(adjective.lemma_)) if is_one else ""


def first_of(noun: Token) -> Token:
    """The noun that "and" joins this one to, whose place in the sentence is its own too."""
    return noun.head if noun.dep_ == "conj" and noun.head.pos_ == "NOUN" else noun


def said_of(value: Valence, noun: Token) -> tuple[str, float]:
    """What its adjectives, or else the verb around it, say of a noun: opinion and strength."""

    def is_known(adjective: Token) -> bool:
        return has_no_opinion(adjective) or value(adjective.lower_) != 0

    own = [each for each in noun.children if is_adjective(each)]
    judged = [
        (each, judgement(value, each, noun)) for each in [*with_joined(own), *predicates(noun)]
    ]
    if any(found for _, found in judged) and not all(map(is_known, own[1:])):
        return "", 0.0  # great local color is no great color
    strength = next((found for _, found in judged if found), 0.0)
    if not strength:
        strength = _by_verb(value, noun)
    praise = (form_of(each) for each, found in judged if found > 0)
    shown = next((word for word in praise if value(word) > 0), "")
    strength = strength * reality(noun) if strength > 0 else strength
    if strength > 0 and is_around(noun):
        return "", 0.0
    return shown if strength > 0 else "", strength


def is_around(noun: Token) -> bool:
    """Whether it is what the text finds around the item: "good restaurants are close by"."""
    behind = itertools.takewhile(lambda each: each.pos_ not in ("VERB", "AUX"), noun.ancestors)
    if any(each.lower_ in _NEAR for each in behind):
        return True  # near the sea and great restaurants
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
    """How good an adjective makes what it is said of.

    What is not bad, or good enough, is no reason to buy it.
    """
    is_part = adjective.i > 0 and adjective.nbor(-1).text == "-"  # Dietrich-like
    strength = 0.0 if is_part or has_no_opinion(adjective) else value(adjective.lower_)
    if not strength:
        return 0.0
    adverbs = {each.lower_ for each in adjective.children if each.dep_ == "advmod"}
    if "too" in adverbs:
        return -abs(strength)
    if is_denied(adjective, of):
        return min(-strength, 0.0)
    return strength if _NOT_QUITE.isdisjoint(adverbs) else 0.0


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
    ) or _is_behind_not(of)
    is_absent = (of.dep_ == "pobj" and of.head.lower_ == "without") or (
        of.dep_ == "dobj" and of.head.lemma_ == "lack"
    )
    return (turned or is_absent) and word.tag_ not in _MORE


def _is_behind_not(noun: Token) -> bool:
    """Whether its noun phrase is denied as a whole: "not the best quality"."""
    start = min(noun.left_edge.i, noun.head.left_edge.i if noun.dep_ == "compound" else noun.i)
    return (
        any(place >= 0 and noun.doc[place].lower_ == "not" for place in (start - 1, start))
        and noun.pos_ == "NOUN"
    )


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
        if first.dep_ != "dobj" or first.head.pos_ != "VERB":
            return 0.0  # nor has what is worth its weight a good one
        verb, strength = first.head, value(first.head.lemma_)
        if any(each.tag_ == "TO" for each in verb.children):
            return 0.0  # what is made to protect the finish has no good finish itself
    turned = is_denied(verb, noun)
    if turned and verb.lemma_ in _BEATEN:
        return LOVED
    if not strength or (turned and strength < 0 and first_of(noun).dep_ == "dobj"):
        return 0.0  # what does no harm to the finish has no good finish either
    return math.copysign(LOVED, -strength if turned else strength)


def by_adverb(value: Valence, verb: Token) -> float:
    adverbs = (each.lower_ for each in verb.children if each.dep_ == "advmod")
    return next((value(each) for each in adverbs if value(each) and each not in _NO_OPINION), 0.0)


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
        if verb is not token and not _HARD.isdisjoint(words):
            return 0.0
        if verb is not token and verb.lemma_ in _WISHES and not turned:
            return -1.0 if verb.lemma_ == "wish" else 0.0
        if not turned and any(dep == "aux" and word in _MIGHT for word, dep in words.items()):
            asks = any(each.tag_ in _MORE for each in verb.subtree)
            return -1.0 if asks else 1.0 if "would" in words else 0.0
    return 1.0
