"""Finds what a text says about things: its nouns, each with the opinion on it.

In "a warm tone" and "the tone is very warm" the tone is warm; in "it sounds warm" the sound is.
Things that belong to another item are left out. The patterns are in grammar.txt.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple

from xrec.annotate.annotator import Sentiment
from xrec.annotate.phrases.grammar import Roles, Token
from xrec.data.language import is_noun, valence, word_set

_MAX_WORDS = 3  # in a noun and the nouns before it
# Endings of adjectives and of the nouns that English derives from them: a durable thing has
# durability. They count only if reviews of the catalog use them as nouns. Those in _GOOD are
# always good to have.
_GOOD = (
    ("able", "ability"),
    ("ible", "ibility"),
    ("ile", "ility"),  # versatile
    ("rate", "racy"),  # accurate
)
_FURTHER = (
    ("rtable", "rt"),  # comfortable
    ("iful", "y"),  # beautiful
)
_MIN_LETTERS = 3
# Adjectives of things that the lexicons lack.
_PRAISING = word_set(
    "affordable convenient creamy durable flavorful hearty hospitable inexpensive intuitive juicy "
    "knowledgeable lightweight luxurious plentiful polite portable practical prompt quiet reliable "
    "savory scenic spacious sturdy tasty timely versatile"
)
_BLAMING = word_set("bulky cumbersome flimsy fragile inconsistent oily pricey")
_COMPARATIVES = ("JJR", "RBR")
_SENTIMENTS: dict[int, Sentiment] = {1: "positive", 0: "neutral", -1: "negative"}


class Word(NamedTuple):
    """What a word says about a thing.

    sign: 1 for praise, -1 for blame, 0 for neither. form: the form before a noun, if it is an
        adjective ("rich" for "sounds richer"), or empty.
    """

    sign: int
    form: str = ""


@dataclass(frozen=True, slots=True)
class Mention:
    """A thing that a text mentions.

    names: possible names, lowercase lemmas, longest first: the noun with the nouns before it
        ("guitar strap", "strap"), or the nouns that an adjective or verb implies ("comfort").
    written: the names as the text writes them. described: the longest name with the adjective
        before it ("special effect"), or empty. implied_by: "verb" or "adjective", or empty.
    of: for an implied thing, the lemma of the noun that has it; empty if the item itself has it.
    roles: see grammar.txt. opinion: the adjective that praises it, or empty.
    """

    names: tuple[str, ...]
    written: tuple[str, ...]
    sentiment: Sentiment = "neutral"
    opinion: str = ""
    described: str = ""
    implied_by: str = ""
    of: str = ""
    roles: tuple[str, ...] = ()


def read_mentions(doc: Any) -> tuple[Mention, ...]:
    """Return what a parsed text mentions, in order."""
    roles = Roles(doc)
    kinds = {"NOUN": _noun, "VERB": _verb, "ADJ": _adjective}
    found = (kinds[token.pos_](token, roles) for token in doc if token.pos_ in kinds)
    return tuple(mention for mention in found if mention is not None)


def _judgment(
    words: Sequence[Word], token: Token, roles: Roles, beside: Sequence[Token] = ()
) -> tuple[Sentiment, str]:
    """Return the sentiment of the first word that praises or blames, and the praising adjective.

    beside: adjectives between that word and the noun; "great local color" is not "great color".
    """
    sign = next((word.sign for word in words if word.sign), 0)
    if not all(_valence(word.lower_) for word in beside):
        return "neutral", ""
    if sign > 0:
        sign = _praise(token, roles)
    forms = (word.form for word in words if word.sign > 0 < sign)
    return _SENTIMENTS[sign], next((form for form in forms if _valence(form) > 0), "")


def _noun(noun: Token, roles: Roles) -> Mention | None:
    """Return the mention of a noun: for "story line", of the line, but not of the story."""
    is_part = noun.dep_ in ("compound", "npadvmod") or not noun.is_alpha
    if is_part or roles.has("absent", noun):
        return None
    start = noun.doc[max(0, noun.i - _MAX_WORDS + 1) : noun.i]
    before = list(takewhile(_is_compound, reversed(start)))[::-1]
    lemmas = [*(word.lower_ for word in before), noun.lemma_.lower()]
    words = [*(word.lower_ for word in before), noun.lower_]
    if behind := roles.of("compound", noun):
        lemmas[-1], words[-1] = (f"{name[-1]} of {behind[0].lower_}" for name in (lemmas, words))
    place = noun.i - len(before) - 1
    adjective = noun.doc[place] if place >= 0 else noun
    own = [word for word in roles.of("judged", noun) if _describes(word) or word.dep_ != "amod"]
    judging = [*(_word(word, noun, roles) for word in own), *_by_verb(noun, roles)]
    beside = [word for word in own[1:] if word.dep_ == "amod"]
    is_nearby = roles.has("nearby", noun)
    return Mention(
        tuple(" ".join(lemmas[first:]) for first in range(len(lemmas))),
        tuple(" ".join(words[first:]) for first in range(len(words))),
        *_judgment([] if is_nearby else judging, noun, roles, beside),
        described=" ".join((adjective.lower_, *lemmas)) if _describes(adjective) else "",
        roles=roles.kept(noun),
    )


def _is_compound(word: Token) -> bool:
    return bool(word.dep_ == "compound" and word.pos_ == "NOUN" and word.is_alpha)


def _describes(word: Token) -> bool:
    """Return whether a word describes the noun after it; the "sound" of sound quality does not."""
    return word.dep_ == "amod" and word.pos_ == "ADJ" and not is_noun(word.lower_)


def _verb(verb: Token, roles: Roles) -> Mention | None:
    """Return what a verb implies: the sound for "it sounds great", writing for "well written"."""
    adverbs = [word.lower_ for word in verb.children if word.dep_ == "advmod"]
    adverb = next((word for word in adverbs if _valence(word)), None)
    lemma = str(verb.lemma_).lower()
    if verb.tag_ != "VBN" or adverb is None:
        words = [_word(word, verb, roles) for word in roles.of("judged", verb)]
        return _implied("verb", verb, (lemma,), words, roles.of("subject", verb), roles)
    name = "workmanship" if lemma == "make" else f"{lemma.removesuffix('e')}ing"
    is_praise = (_valence(adverb) > 0) != roles.has("denied", verb)
    of = roles.of("subject" if verb.dep_ == "ROOT" else "describes", verb)
    return _implied("adjective", verb, (name,), [Word(1 if is_praise else -1)], of, roles)


def _adjective(word: Token, roles: Roles) -> Mention | None:
    """Return what is implied: comfort for "comfortable", ease of use for "easy to use"."""
    names = tuple(f"ease of {verb.lemma_}" for verb in roles.of("purpose", word))
    names = names or (() if word.lower_ == "easy" else _qualities(word.lower_))
    sign = _word(word, word, roles).sign
    if not _valence(word.lower_):
        sign = -1 if roles.has("denied", word) else 1
    return _implied("adjective", word, names, [Word(sign)], roles.of("describes", word), roles)


def _implied(
    by: str,
    word: Token,
    names: tuple[str, ...],
    words: Sequence[Word],
    of: Sequence[Token],
    roles: Roles,
) -> Mention | None:
    """Return the mention of what a word implies about the first token in `of`, if any."""
    if not of or not names:
        return None
    judgment = _judgment(words, word, roles)
    if judgment[0] == "neutral":
        return None
    owner = "" if of[0] is None else str(of[0].lemma_).lower()
    return Mention(names, names, *judgment, implied_by=by, of=owner)


def _qualities(adjective: str) -> tuple[str, ...]:
    """Return the nouns that an adjective may imply; only good ones if its valence is unknown."""
    made = (
        adjective.removesuffix(old) + new
        for old, new in ((*_GOOD, *_FURTHER) if _valence(adjective) else _GOOD)
        if adjective.endswith(old) and len(adjective) - len(old) + len(new) > _MIN_LETTERS
    )
    return tuple(dict.fromkeys(made))


def _word(adjective: Token, of: Token, roles: Roles) -> Word:
    """Return the word for an adjective that judges the token `of`.

    "Not bad" is not praise. A dial that is easy to read is not an easy dial, so it gets no form.
    """
    is_adjective = adjective.tag_ in ("JJ", "JJR", "JJS") and not roles.has("purpose", adjective)
    form = ("good" if adjective.lemma_ == "well" else adjective.lemma_) if is_adjective else ""
    signs = (1, -1)
    if roles.has("unsure", adjective):
        signs = (0, 0)
    elif roles.has("too", adjective):
        signs = (-1, -1)
    elif adjective.tag_ not in _COMPARATIVES:  # "couldn't be better" denies nothing
        is_denied = roles.has("denied", adjective) or roles.has("denied", of)
        signs = (-1, 0) if is_denied else signs
    return Word(_sign(adjective.lower_, *signs), form)


def _by_verb(noun: Token, roles: Roles) -> Iterator[Word]:
    """Yield what a verb says about its subject ("works well") or object ("I love")."""
    for role, is_subject in (("does", True), ("loved", False)):
        for word in roles.of(role, noun):
            verb = word if word.pos_ == "VERB" else word.head
            if not roles.has("transitive" if is_subject else "purposeful", verb):
                is_denied = roles.has("denied", verb) or roles.has("denied", noun)
                signs = (-1, int(is_subject)) if is_denied else (1, -1)
                yield Word(_sign(str(word.lemma_), *signs))


def _sign(word: str, if_good: int, if_bad: int) -> int:
    """Return 0 for a word that sounds neither good nor bad."""
    strength = _valence(word)
    return 0 if not strength else if_good if strength > 0 else if_bad


def _valence(word: str) -> float:
    return valence(word) or (word in _PRAISING) - (word in _BLAMING)


def _praise(token: Token, roles: Roles) -> int:
    """Return what praise counts: 1 in a fact, 0 in a condition or question, -1 in a wish."""
    for word in (token, *token.ancestors):
        if roles.has("open", word):
            return 0
        if not roles.has("denied", word):
            if roles.has("wished", word):
                return -1
            if roles.has("wanted", word):
                return 0
    return 1
