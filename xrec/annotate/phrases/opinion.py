"""What a sentence says about a noun: how good or bad it is, and the adjective that says so.

Negations reverse an opinion, too much of something is bad, and conditions, wishes and questions
praise nothing.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile

from xrec.annotate.phrases.grammar import Token
from xrec.data.english import is_noun, word_set

Valence = Callable[[str], float]
"""How good or bad a word sounds, from -1 to 1."""
LOVED = 0.5  # the strength of an opinion that is not expressed by an adjective
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
_MODALS = word_set("could should would might may")
_COMPARATIVES = word_set("JJR RBR")
_NOT_QUITE = word_set("enough almost nearly")
_NEAR = word_set("near nearby close around across within outside everywhere")
_NOT_ONLY = word_set("only just merely")
_BEATEN = word_set("beat fault")  # "you can't beat the price"
_HARD = word_set("hard difficult impossible tough")  # "it is hard to get a clean tone from it"
_SUBJECTS = ("nsubj", "nsubjpass")


def has_no_opinion(adjective: Token) -> bool:
    """Return whether an adjective praises and blames nothing, whatever its valence."""
    return adjective.is_stop or not _NO_OPINION.isdisjoint((adjective.lower_, adjective.lemma_))


def is_adjective(word: Token) -> bool:
    """Return whether a word describes the noun after it; the "sound" of sound quality does not."""
    return word.dep_ == "amod" and word.pos_ == "ADJ" and not is_noun(word.lower_)


def form_of(adjective: Token) -> str:
    """Return the form before a noun, "rich" of "sounds richer"; empty for other words."""
    if adjective.tag_ not in ("JJ", "JJR", "JJS"):
        return ""
    return "good" if adjective.lemma_ == "well" else str(adjective.lemma_)


def opinion_on(value: Valence, noun: Token) -> tuple[str, float]:
    """Return the adjective that praises a noun, and how good its adjectives or verb make it."""
    own = [word for word in noun.children if is_adjective(word)]
    judged = [
        (word, judgement(value, word, noun)) for word in (*with_joined(own), *_predicates(noun))
    ]
    is_known = [has_no_opinion(word) or value(word.lower_) != 0 for word in own[1:]]
    if any(found for _, found in judged) and not all(is_known):
        return "", 0.0  # "great local color" is not "great color"
    strength = next((found for _, found in judged if found), 0.0) or _by_verb(value, noun)
    if strength <= 0:
        return "", strength
    strength *= reality(noun)
    if strength > 0 and _is_nearby(noun):
        return "", 0.0
    praise = (form_of(word) for word, found in judged if found > 0)
    opinion = next((word for word in praise if value(word) > 0), "")
    return opinion if strength > 0 else "", strength


def _is_nearby(noun: Token) -> bool:
    """Return whether a noun is near the item: "good restaurants are close by"."""
    ancestors = takewhile(lambda word: word.pos_ not in ("VERB", "AUX"), noun.ancestors)
    if any(word.lower_ in _NEAR for word in ancestors):
        return True  # near the sea and great restaurants
    if any(word.dep_ in ("det", "poss") for word in noun.children):
        return False
    around = (*noun.children, *noun.head.children, *noun.head.head.children)
    return any(word.lower_ in _NEAR and word.dep_ in ("advmod", "prep", "acomp") for word in around)


def with_joined(adjectives: Iterable[Token]) -> Iterator[Token]:
    """Yield the adjectives, each followed by those that it is joined to."""
    for word in adjectives:
        yield word
        yield from (other for other in word.conjuncts if other.pos_ == "ADJ")


def _first(noun: Token) -> Token:
    """Return the noun that "and" joins this one to, whose place in the sentence it shares."""
    return noun.head if noun.dep_ == "conj" and noun.head.pos_ == "NOUN" else noun


def _predicates(noun: Token) -> Iterator[Token]:
    """Yield the adjectives after a verb such as `is` or `sounds` whose subject is the noun."""
    first = _first(noun)
    if first.dep_ in _SUBJECTS:
        words = first.head.children
        yield from with_joined(
            word for word in words if word.dep_ in ("acomp", "oprd") and word.pos_ == "ADJ"
        )


def judgement(value: Valence, adjective: Token, of: Token) -> float:
    """Return how good an adjective makes the token `of`.

    What is not bad, or good enough, is no reason to buy it.
    """
    is_part = adjective.i > 0 and adjective.nbor(-1).text == "-"  # Dietrich-like
    strength = 0.0 if is_part or has_no_opinion(adjective) else value(adjective.lower_)
    if not strength:
        return 0.0
    adverbs = {word.lower_ for word in adjective.children if word.dep_ == "advmod"}
    if "too" in adverbs:
        return -abs(strength)
    if is_denied(adjective, of):
        return min(-strength, 0.0)
    return strength if _NOT_QUITE.isdisjoint(adverbs) else 0.0


def is_denied(word: Token, of: Token) -> bool:
    """Return whether the sentence denies what `word` says about `of`.

    "Couldn't be better" denies nothing, and neither does "not only".
    """
    if word.tag_ in _COMPARATIVES:
        return False
    heads = [word, of, *([] if word.dep_ == "amod" else [word.head])]
    heads += [of.head] if of.dep_ in ("dobj", "attr", "pobj") else []
    for child in (child for head in heads for child in head.children):
        if child.dep_ == "neg" or (child.dep_ == "det" and child.lower_ == "no"):
            is_last = child.i + 1 >= len(child.doc)
            if is_last or child.nbor().lower_ not in _NOT_ONLY:
                return True
    is_without = of.dep_ == "pobj" and of.head.lower_ == "without"
    is_lacking = of.dep_ == "dobj" and of.head.lemma_ == "lack"
    return is_without or is_lacking or _is_after_not(of)


def _is_after_not(noun: Token) -> bool:
    """Return whether a noun phrase is denied as a whole: "not the best quality"."""
    if noun.pos_ != "NOUN":
        return False
    start = min(noun.left_edge.i, noun.head.left_edge.i if noun.dep_ == "compound" else noun.i)
    return any(noun.doc[place].lower_ == "not" for place in (start - 1, start) if place >= 0)


def _by_verb(value: Valence, noun: Token) -> float:
    """Return what a verb says about its subject ("works well") or object ("I love")."""
    first = _first(noun)
    verb = first.head
    if first.dep_ in _SUBJECTS:
        does = verb.pos_ == "VERB" and all(word.dep_ != "dobj" for word in verb.children)
        strength = (value(verb.lemma_) or by_adverb(value, verb)) if does else 0.0
        nouns = (word for word in verb.children if word.dep_ == "attr" and word.pos_ == "NOUN")
        strength = strength or next((value(word.lemma_) for word in nouns), 0.0)
    elif first.dep_ != "dobj" or verb.pos_ != "VERB":
        return 0.0  # what is worth its weight has no good weight
    else:
        strength = value(verb.lemma_)
        if any(word.tag_ == "TO" for word in verb.children):
            return 0.0  # what is made to protect the finish has no good finish itself
    is_reversed = is_denied(verb, noun)
    if is_reversed and verb.lemma_ in _BEATEN:
        return LOVED
    if not strength or (is_reversed and strength < 0 and first.dep_ == "dobj"):
        return 0.0  # what does not harm the finish has no good finish either
    return math.copysign(LOVED, -strength if is_reversed else strength)


def by_adverb(value: Valence, verb: Token) -> float:
    """Return the valence of a verb's first adverb that has one."""
    adverbs = (word.lower_ for word in verb.children if word.dep_ == "advmod")
    return next((value(word) for word in adverbs if value(word) and word not in _NO_OPINION), 0.0)


def reality(token: Token) -> float:
    """Return what is left of praise: 1 for a fact, 0 for a condition or question, -1 for a wish.

    "I wish it had a warm tone" and "it could have a warmer tone" blame.
    """
    if token.sent[-1].text == "?":
        return 0.0
    for verb in (token, *token.ancestors):
        words = {word.lower_: word.dep_ for word in verb.children}
        is_reversed, is_above = "neg" in words.values(), verb is not token
        if any(dep == "mark" and word in _CONDITIONS for word, dep in words.items()):
            return 0.0
        if is_above and not _HARD.isdisjoint(words):
            return 0.0
        if is_above and verb.lemma_ in _WISHES and not is_reversed:
            return -1.0 if verb.lemma_ == "wish" else 0.0
        if not is_reversed and any(dep == "aux" and word in _MODALS for word, dep in words.items()):
            is_wish = any(word.tag_ in _COMPARATIVES for word in verb.subtree)
            return -1.0 if is_wish else 1.0 if "would" in words else 0.0
    return 1.0
