"""Finds what a text says about things: its nouns, each with the words that judge it.

In "a warm tone" and "the tone is very warm" the tone is warm; in "it sounds warm" the sound is.
Things that belong to another item are left out. The patterns are in grammar.txt. Whether a word is
good or bad is decided later (`Mention.judged`), so each text is parsed only once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, NamedTuple

from xrec.annotate.annotator import Sentiment
from xrec.annotate.phrases.grammar import Roles, Token
from xrec.data.language import is_noun, valence

Valence = Callable[[str], float]
"""How good or bad a word sounds, from -1 to 1."""
_MAX_WORDS = 3  # in a noun and the nouns before it
# Nouns that English derives from adjectives: a durable thing has durability. They count only if
# reviews of the catalog use them as nouns. Those in _GOOD are always good to have.
_GOOD = (
    ("able", "ability"),
    ("ible", "ibility"),
    ("ile", "ility"),  # versatile
    ("rate", "racy"),  # accurate
)
_FURTHER = (
    ("rtable", "rt"),  # comfortable
    ("iful", "y"),  # beautiful
    ("y", "e"),  # a tasty dish, its taste
)
_MIN_LETTERS = 3
_COMPARATIVES = ("JJR", "RBR")
_SENTIMENTS: dict[int, Sentiment] = {1: "positive", 0: "neutral", -1: "negative"}


class Word(NamedTuple):
    """A word that judges a thing.

    form: the form before a noun, if it is an adjective ("rich" for "sounds richer"), or empty.
    if_good, if_bad: what it says about the thing if the word sounds good or bad: 1 for praise, -1
        for blame, 0 for neither.
    """

    word: str
    form: str
    if_good: int = 1
    if_bad: int = -1

    def sign(self, value: Valence) -> int:
        """Return 1 if the word praises the thing, -1 if it blames it, else 0."""
        strength = value(self.word)
        return 0 if not strength else self.if_good if strength > 0 else self.if_bad


@dataclass(frozen=True, slots=True)
class Mention:
    """A thing that a text mentions.

    names: possible names, lowercase lemmas, longest first: the noun with the nouns before it
        ("guitar strap", "strap"), or the nouns that an adjective or verb implies ("comfort").
    written: the names as the text writes them. described: the longest name with the adjective
        before it ("special effect"), or empty. implied_by: "verb" or "adjective", or empty.
    roles: see grammar.txt. of: for an implied thing, the lemma of the noun that has it; empty if
        the item itself has it.
    words: the words that judge it; the first that is good or bad counts. beside: adjectives between
        the first one and the noun. praise: what praise counts: 1 in a fact, 0 in a condition or
        question, -1 in a wish.
    opinion: the adjective that praises it, or empty. sign: 1 for praise, -1 for blame, 0 for
        neither; both are set by `judged`.
    """

    names: tuple[str, ...]
    written: tuple[str, ...]
    described: str = ""
    implied_by: str = ""
    of: str = ""
    words: tuple[Word, ...] = ()
    beside: tuple[str, ...] = ()
    praise: int = 1
    roles: frozenset[str] = frozenset()
    opinion: str = ""
    sign: int = 0

    @property
    def sentiment(self) -> Sentiment:
        """The sign as a word."""
        return _SENTIMENTS[self.sign]

    def judged(self, value: Valence) -> "Mention":
        """Return the mention with its opinion and sign, given how good or bad each word is."""
        signs = [word.sign(value) for word in self.words]
        sign = next(filter(None, signs), 0)
        if not sign or not all(map(value, self.beside)):
            return self  # "great local color" is not "great color"
        sign *= self.praise if sign > 0 else 1
        praise = (
            word.form for word, found in zip(self.words, signs, strict=True) if found > 0 < sign
        )
        return replace(self, opinion=next((w for w in praise if value(w) > 0), ""), sign=sign)


@dataclass(frozen=True, slots=True)
class Parsed:
    """The mentions of a text, in order.

    joined: pairs of adjectives that "and" joins. proper: words in proper names, in lowercase.
    """

    mentions: tuple[Mention, ...]
    joined: tuple[tuple[str, str], ...]
    proper: frozenset[str]


def read(doc: Any) -> Parsed:
    """Return what a parsed text mentions."""
    roles = Roles(doc)
    joined = tuple(
        (other.lower_, doc[place].lower_)
        for place in roles.captured["joined"]
        for other in roles.of("joined", doc[place])
    )
    proper = frozenset(token.lower_ for token in doc if token.pos_ == "PROPN")
    return Parsed(tuple(_mentions(doc, roles)), joined, proper)


def _mentions(doc: Any, roles: Roles) -> Iterator[Mention]:
    kinds = {"NOUN": _noun, "VERB": _verb, "ADJ": _adjective}
    for token in doc:
        mention = kinds[token.pos_](token, roles) if token.pos_ in kinds else None
        if mention is not None:
            yield mention


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
    return Mention(
        tuple(" ".join(lemmas[first:]) for first in range(len(lemmas))),
        tuple(" ".join(words[first:]) for first in range(len(words))),
        " ".join((adjective.lower_, *lemmas)) if _describes(adjective) else "",
        words=() if roles.has("nearby", noun) else tuple(judging),
        beside=tuple(word.lower_ for word in own[1:] if word.dep_ == "amod"),
        praise=_praise(noun, roles),
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
    adverb = next((word for word in adverbs if valence(word)), None)
    lemma = str(verb.lemma_).lower()
    if verb.tag_ != "VBN" or adverb is None:
        words = tuple(_word(word, verb, roles) for word in roles.of("judged", verb))
        return _implied("verb", verb, (lemma,), words, roles.of("subject", verb), roles)
    name = "workmanship" if lemma == "make" else f"{lemma.removesuffix('e')}ing"
    sign = -1 if roles.has("denied", verb) else 1
    of = roles.of("subject" if verb.dep_ == "ROOT" else "describes", verb)
    return _implied("adjective", verb, (name,), (Word(adverb, "", sign, -sign),), of, roles)


def _adjective(word: Token, roles: Roles) -> Mention | None:
    """Return what is implied: comfort for "comfortable", ease of use for "easy to use"."""
    names = tuple(f"ease of {verb.lemma_}" for verb in roles.of("purpose", word))
    names = names or (() if word.lower_ == "easy" else _qualities(word.lower_))
    words = [_word(word, word, roles)._replace(form="")]
    if not valence(word.lower_):
        words.append(Word("good", "", -1 if roles.has("denied", word) else 1))
    return _implied("adjective", word, names, tuple(words), roles.of("describes", word), roles)


def _implied(
    by: str,
    word: Token,
    names: tuple[str, ...],
    words: tuple[Word, ...],
    of: list[Token],
    roles: Roles,
) -> Mention | None:
    """Return the mention of what a word implies about the first token in `of`, if any."""
    if not of or not names or not words:
        return None
    owner = "" if of[0] is None else str(of[0].lemma_).lower()
    praise = _praise(word, roles)
    return Mention(names, names, implied_by=by, of=owner, words=words, praise=praise)


def _qualities(adjective: str) -> tuple[str, ...]:
    """Return the nouns that an adjective may imply; only good ones if its valence is unknown."""
    made = (
        adjective.removesuffix(old) + new
        for old, new in ((*_GOOD, *_FURTHER) if valence(adjective) else _GOOD)
        if adjective.endswith(old) and len(adjective) - len(old) + len(new) > _MIN_LETTERS
    )
    return tuple(dict.fromkeys(made))


def _word(adjective: Token, of: Token, roles: Roles) -> Word:
    """Return the word for an adjective that judges the token `of`; "not bad" is not praise."""
    is_adjective = adjective.tag_ in ("JJ", "JJR", "JJS")
    form = ("good" if adjective.lemma_ == "well" else adjective.lemma_) if is_adjective else ""
    signs = (1, -1)
    if roles.has("unsure", adjective):
        signs = (0, 0)
    elif roles.has("too", adjective):
        signs = (-1, -1)
    elif adjective.tag_ not in _COMPARATIVES:  # "couldn't be better" denies nothing
        is_denied = roles.has("denied", adjective) or roles.has("denied", of)
        signs = (-1, 0) if is_denied else signs
    return Word(adjective.lower_, form, *signs)


def _by_verb(noun: Token, roles: Roles) -> Iterator[Word]:
    """Yield what a verb says about its subject ("works well") or object ("I love")."""
    for role, is_subject in (("does", True), ("loved", False)):
        for word in roles.of(role, noun):
            verb = word if word.pos_ == "VERB" else word.head
            if not roles.has("transitive" if is_subject else "purposeful", verb):
                is_denied = roles.has("denied", verb) or roles.has("denied", noun)
                signs = (-1, int(is_subject)) if is_denied else (1, -1)
                yield Word(str(word.lemma_), "", *signs)


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
