"""What a review says about which thing: its nouns, each with the opinion of its sentence.

In "a warm tone", "the tone is very warm" and "it sounds warm" the opinion on the tone is warm. What
belongs to another item is not mentioned. The patterns are in grammar.txt.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

import pyarrow as pa

from xrec.annotate.annotator import Sentiment
from xrec.annotate.phrases.grammar import Roles, Token
from xrec.annotate.phrases.opinion import (
    LOVED,
    Valence,
    by_adverb,
    form_of,
    has_no_opinion,
    is_adjective,
    is_denied,
    judgement,
    opinion_on,
    reality,
    with_joined,
)
from xrec.data.english import valence
from xrec.data.language import other_language
from xrec.data.parser import parse, unpack
from xrec.storage import Location, read_table

PARSED = "annotator/parsed.parquet"
PARSED_SCHEMA = pa.schema(
    [pa.field("key", pa.binary(), nullable=False), pa.field("doc", pa.binary(), nullable=False)]
)
MAX_WORDS = 3  # of a noun and the nouns before it
Role = Literal["named", "own", "item", "pointed", "topic", "part"]
_ROLES: tuple[Role, ...] = ("named", "own", "item", "pointed", "topic", "part")
# Nouns that English makes of adjectives: what is durable has durability. They only count if reviews
# of the catalogue use them as nouns. The first are always good to have.
_GOOD = (
    ("able", "ability"),
    ("ible", "ibility"),
    ("ile", "ility"),  # versatile
    ("rate", "racy"),  # accurate
    ("ive", "ivity"),  # responsive
)
_FURTHER = (
    ("rtable", "rt"),  # comfortable
    ("iful", "y"),  # beautiful
    ("ish", "e"),  # stylish
    ("y", "e"),  # a tasty dish, its taste
    ("rm", "rmth"),  # warm
)
_MIN_LETTERS = 3
_MAX_KEPT_TEXTS = 2**14  # a profile is written again without each of its reviews


@dataclass(frozen=True, slots=True)
class Mention:
    """A thing that a text mentions.

    names: possible names, lemmas in lower case, the longest first: the noun with the nouns before
        it ("guitar strap", "strap"), or the nouns that an adjective or verb implies ("comfort").
    written: the same as written. described: the longest name with the adjective before it ("special
        effect"), or empty. implied_by: the kind of word that implies it, if it is not a noun.
    opinion: the adjective that praises it, or empty. strength: from -1 (bad) to 1 (good).
    roles: see grammar.txt. of: for an implied thing, the lemma of the noun that has it; empty if
        that is the item.
    """

    names: tuple[str, ...]
    written: tuple[str, ...]
    opinion: str
    strength: float
    roles: frozenset[Role] = frozenset()
    described: str = ""
    implied_by: Literal["", "verb", "adjective"] = ""
    of: str = ""

    @property
    def sentiment(self) -> Sentiment:
        """The sign of the strength."""
        return "neutral" if self.strength == 0 else "positive" if self.strength > 0 else "negative"


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a text mentions, in its order.

    joined: pairs of adjectives with "and" between them. proper: words in proper names, in lower
        case.
    """

    mentions: tuple[Mention, ...]
    joined: tuple[tuple[str, str], ...]
    proper: frozenset[str]


class Reader:
    """Finds what texts mention.

    learned: valences of further words. parsed: packed parses of English texts, by `key_of`.
    """

    def __init__(self, learned: Mapping[str, float], parsed: Mapping[bytes, bytes] | None = None):
        self._learned, self._parsed = learned, parsed or {}
        self._known: dict[str, tuple[Mention, ...] | None] = {}

    def parse(self, texts: Iterable[str]) -> None:
        """Read texts ahead, which is faster than one by one."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if len(self._known) > _MAX_KEPT_TEXTS:
            self._known.clear()
        self._known.update(dict.fromkeys(new))
        unread = []
        for text in new:
            if (data := self._parsed.get(key_of(text))) is not None:
                self._known[text] = read(unpack(data), self._valence).mentions
            elif is_english(text):
                unread.append(text)
        for text, doc in zip(unread, parse(unread), strict=True):
            self._known[text] = read(doc, self._valence).mentions

    def mentions(self, text: str) -> tuple[Mention, ...] | None:
        """Return what a text mentions, in its order; None if it is not in English."""
        if text not in self._known:
            self.parse([text])
        return self._known[text]

    def _valence(self, word: str) -> float:
        return valence(word) or self._learned.get(word, 0.0)


def key_of(text: str) -> bytes:
    """Return the key of a text among the parsed ones, 16 bytes."""
    data = text.encode("utf-8", errors="surrogatepass")
    return hashlib.blake2b(data, digest_size=16).digest()


def read_parsed(output: Location) -> dict[bytes, bytes]:
    """Return the packed parses of the texts that were learned from, by `key_of`."""
    table = read_table(output / PARSED, PARSED_SCHEMA)
    return dict(zip(table["key"].to_pylist(), table["doc"].to_pylist(), strict=True))


def is_english(text: str) -> bool:
    """Return whether a text is in English, or too short to tell."""
    return other_language(text, "English") is None


def read(doc: Any, value: Valence = valence) -> Parsed:
    """Return what a parsed text mentions; `value` is the valence of a word, from -1 to 1."""
    roles, joined = Roles(doc), list[tuple[str, str]]()
    for token in doc:
        head = token.head
        is_joined = token.dep_ == "conj" and token.pos_ == head.pos_ == "ADJ"
        if is_joined and any(child.lower_ == "and" for child in head.children):
            joined.append((head.lower_, token.lower_))
    proper = frozenset(token.lower_ for token in doc if token.pos_ == "PROPN")
    return Parsed(tuple(_mentions(doc, roles, value)), tuple(joined), proper)


def _mentions(doc: Any, roles: Roles, value: Valence) -> Iterator[Mention]:
    for token in doc:
        mention = None
        if token.pos_ == "NOUN":
            mention = _noun(value, token, roles)
        elif token.pos_ in ("VERB", "ADJ"):
            is_participle = token.tag_ == "VBN" and token.pos_ == "VERB"
            if is_participle and by_adverb(value, token):
                mention = _participle(value, token, roles)
            else:
                mention = (_verb if token.pos_ == "VERB" else _adjective)(value, token, roles)
        if mention is not None:
            yield mention


def _noun(value: Valence, noun: Token, roles: Roles) -> Mention | None:
    """A story line: the line, but not the story."""
    is_part = noun.dep_ in ("compound", "npadvmod") or not noun.is_alpha
    if is_part or roles.has("absent", noun):
        return None
    start = noun.doc[max(0, noun.i - MAX_WORDS + 1) : noun.i]
    before = list(takewhile(_is_compound, reversed(start)))[::-1]
    lemmas = [*(word.lower_ for word in before), noun.lemma_.lower()]
    words = [*(word.lower_ for word in before), noun.lower_]
    if behind := roles.of("joined", noun):
        lemmas[-1], words[-1] = (f"{name[-1]} of {behind[0].lower_}" for name in (lemmas, words))
    place = noun.i - len(before) - 1
    adjective = noun.doc[place] if place >= 0 else noun
    opinion, strength = opinion_on(value, noun)
    return Mention(
        tuple(" ".join(lemmas[first:]) for first in range(len(lemmas))),
        tuple(" ".join(words[first:]) for first in range(len(words))),
        opinion,
        strength,
        _roles(noun, roles),
        " ".join((adjective.lower_, *lemmas)) if is_adjective(adjective) else "",
    )


def _roles(noun: Token, roles: Roles) -> frozenset[Role]:
    """Return the roles of a noun; what the text points at is its item."""
    implied: tuple[Role, ...] = ("item",) if roles.has("pointed", noun) else ()
    return frozenset((*implied, *(role for role in _ROLES if roles.has(role, noun))))


def _is_compound(word: Token) -> bool:
    return bool(word.dep_ == "compound" and word.pos_ == "NOUN" and word.is_alpha)


def _verb(value: Valence, verb: Token, roles: Roles) -> Mention | None:
    """It sounds great: the sound."""
    adjectives = [word for word in verb.children if word.dep_ == "acomp" and word.pos_ == "ADJ"]
    judged = [(word, judgement(value, word, verb)) for word in with_joined(adjectives)]
    strength = next((found for _, found in judged if found), 0.0)
    opinion = next((form_of(word) for word, found in judged if found > 0), "")
    of = roles.of("subject", verb)
    return _implied("verb", verb, (verb.lemma_.lower(),), strength, of, opinion)


def _participle(value: Valence, word: Token, roles: Roles) -> Mention | None:
    """It is beautifully written: the writing."""
    strength = by_adverb(value, word)
    strength = -strength if is_denied(word, word) else strength
    lemma = word.lemma_.lower()
    name = "workmanship" if lemma == "make" else f"{lemma.removesuffix('e')}ing"
    of = roles.of("subject", word) if word.dep_ == "ROOT" else _described(word, roles)
    return _implied("adjective", word, (name,), strength, of)


def _adjective(value: Valence, word: Token, roles: Roles) -> Mention | None:
    """It is comfortable: the comfort; it is easy to use: the ease of use."""
    if has_no_opinion(word):
        return None
    strength = judgement(value, word, word)
    names = _qualities(word.lower_, is_judged=strength != 0)
    is_ease, purposes = word.lower_ in ("easy", "simple"), roles.of("purpose", word)
    if is_ease or purposes:
        names = tuple(f"ease of {verb.lemma_}" for verb in purposes if verb and is_ease)
    if not strength:
        strength = -LOVED if is_denied(word, word) else LOVED
    return _implied("adjective", word, names, strength, _described(word, roles))


def _described(word: Token, roles: Roles) -> list[Token]:
    """Return what an adjective, or the one that "and" joins it to, describes."""
    while word.dep_ == "conj" and word.head.pos_ in ("ADJ", "VERB"):
        word = word.head
    return roles.of("describes", word)


def _implied(
    kind: Literal["verb", "adjective"],
    word: Token,
    names: tuple[str, ...],
    strength: float,
    of: list[Token],
    opinion: str = "",
) -> Mention | None:
    """Return the mention of what a word implies of the first of the nouns `of`, if any."""
    strength = strength * reality(word) if strength > 0 else strength
    if not of or not strength or not names:
        return None
    owner = "" if of[0] is None else str(of[0].lemma_).lower()
    opinion = opinion if strength > 0 else ""
    return Mention(names, names, opinion, strength, implied_by=kind, of=owner)


def _qualities(adjective: str, *, is_judged: bool) -> tuple[str, ...]:
    """Return the nouns that an adjective may imply; only good ones if its valence is unknown."""
    made = (
        adjective.removesuffix(old) + new
        for old, new in ((*_GOOD, *_FURTHER) if is_judged else _GOOD)
        if adjective.endswith(old) and len(adjective) - len(old) + len(new) > _MIN_LETTERS
    )
    return tuple(dict.fromkeys(made))
