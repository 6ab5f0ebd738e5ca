"""What a review says of which thing: its nouns, each with the opinion that the sentence has on it.

Of "a warm tone", "the tone is very warm" and "it sounds warm" the opinion on the tone is warm. What
is another item's is not mentioned.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from xrec.annotate.annotator import Sentiment
from xrec.annotate.phrases.opinion import (
    LOVED,
    Token,
    Valence,
    by_adverb,
    first_of,
    form_of,
    has_no_opinion,
    is_adjective,
    is_denied,
    judgement,
    predicates,
    reality,
    said_of,
    with_joined,
)
from xrec.data.english import valence, word_set
from xrec.data.language import other_language
from xrec.data.parser import parse, unpack
from xrec.storage import Location, read_table

PARSED = "annotator/parsed.parquet"
PARSED_SCHEMA = pa.schema(
    [pa.field("key", pa.binary(), nullable=False), pa.field("doc", pa.binary(), nullable=False)]
)
# Nouns that English makes of an adjective: what is durable has durability. Those count that reviews
# of the catalogue use as nouns. The first are good to have, whatever the adjective.
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
_LEAST_LETTERS = 3
_BARE = ("ADJ", "NOUN")
MOST_WORDS = 3  # of a noun with those that it is composed with
_KEPT = 2**14  # texts: a profile is written once more without each of its reviews
_OTHERS = word_set("than unlike")
_ITEM = word_set("it this that they these")
_THE = word_set("the this these")
_ONE = word_set("a an")
_TOLD = ("ROOT", "attr", "appos")
_ITS = word_set("its their")
_HAS = word_set("have has offer provide give produce feature include deliver make")
_OWNERS = word_set("my our your")
_ENDS = word_set("free less proof")


@dataclass(frozen=True, slots=True)
class Mention:
    """A thing where a text speaks of it.

    names: what it may be called, lemmas in lower case, the longest first: the noun with those
        before it ("guitar strap", "strap"), or what an adjective or a verb stands for ("comfort").
    written: the same as they are written. implied_by: what stands for it, if it is no noun.
    described: the longest name behind the adjective before it ("special effect"), or empty.
    opinion: the adjective that praises it, or empty. strength: from -1 (bad) to 1 (good).
    of: of an implied one the lemma of the noun that it is said of; empty if that is `it`.
    is_named: whether a proper name stands before it, or it is one. is_own: whether it is the
        writer's ("my hair"). is_what_it_is: whether the text calls its item so ("it is a film");
        is_pointed: by `this` or `these`; is_topic: in place of the item ("I love this light").
    is_part: whether the text says that the item has it: "its tone", "it has a warm tone", or says
        how the one is: "the tone is warm" (as Popescu and Etzioni find parts, 2005).
    """

    names: tuple[str, ...]
    written: tuple[str, ...]
    opinion: str
    strength: float
    implied_by: Literal["", "verb", "adjective"] = ""
    described: str = ""
    is_named: bool = False
    is_own: bool = False
    is_what_it_is: bool = False
    is_pointed: bool = False
    is_topic: bool = False
    is_part: bool = False
    of: str = ""

    @property
    def sentiment(self) -> Sentiment:
        """The sign of the strength in words."""
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
    """Reads texts.

    learned: further valences of words. parsed: packed parses of English texts, by `key_of`.
    """

    def __init__(self, learned: Mapping[str, float], parsed: Mapping[bytes, bytes] | None = None):
        self._learned, self._parsed = learned, parsed or {}
        self._known: dict[str, tuple[Mention, ...] | None] = {}

    def parse(self, texts: Iterable[str]) -> None:
        """Read texts ahead: many at once are faster than one by one."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if len(self._known) > _KEPT:
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
        """What a text mentions, in its order; None if it is in another language than English."""
        if text not in self._known:
            self.parse([text])
        return self._known[text]

    def _valence(self, word: str) -> float:
        return valence(word) or self._learned.get(word, 0.0)


def key_of(text: str) -> bytes:
    """What a text is known by among the parsed ones, 16 bytes."""
    data = text.encode("utf-8", errors="surrogatepass")
    return hashlib.blake2b(data, digest_size=16).digest()


def read_parsed(output: Location) -> dict[bytes, bytes]:
    """The packed parses of the texts that were learned from, by `key_of`."""
    table = read_table(output / PARSED, PARSED_SCHEMA)
    return dict(zip(table["key"].to_pylist(), table["doc"].to_pylist(), strict=True))


def is_english(text: str) -> bool:
    """Whether a text is in English, or too short to tell."""
    return other_language(text, "English") is None


def read(doc: Any, value: Valence = valence) -> Parsed:
    """What a parsed text mentions; `value` gives how good a word is, from -1 to 1."""
    found = [
        mention
        for token in doc
        if (mention := _noun(value, token) or _implied(value, token)) is not None
    ]
    joined = [
        (token.head.lower_, token.lower_)
        for token in doc
        if token.dep_ == "conj" and token.pos_ == token.head.pos_ == "ADJ"
        if any(child.lower_ == "and" for child in token.head.children)
    ]
    proper = frozenset(token.lower_ for token in doc if token.pos_ == "PROPN")
    return Parsed(tuple(found), tuple(joined), proper)


def _noun(value: Valence, noun: Token) -> Mention | None:
    """The mention of a noun that no other noun continues; None of other words."""
    if noun.pos_ != "NOUN" or noun.dep_ in ("compound", "npadvmod") or not noun.is_alpha:
        return None
    if noun.i + 1 < len(noun.doc) and not noun.whitespace_ and noun.nbor().text == "-":
        return None  # streak-free, check-in
    if _is_of_another(noun) or any(each.lower_ in _ENDS for each in noun.ancestors):
        return None
    if noun.dep_ == "pobj" and noun.head.lower_ == "in" and noun.left_edge.pos_ in _BARE:
        return None  # in fine shape, in good condition
    before, behind = _composed(noun), _of(noun)
    lemmas = [*(each.lower_ for each in before), noun.lemma_.lower()]
    lower = [*(each.lower_ for each in before), noun.lower_]
    if behind:
        lemmas[-1], lower[-1] = f"{lemmas[-1]} of {behind}", f"{lower[-1]} of {behind}"
    opinion, strength = said_of(value, noun)
    return Mention(
        tuple(" ".join(lemmas[first:]) for first in range(len(lemmas))),
        tuple(" ".join(lower[first:]) for first in range(len(lower))),
        opinion,
        strength,
        described=_described(noun, before, lemmas),
        is_named=any(each.pos_ == "PROPN" for each in noun.lefts),
        is_own=_is_own(noun),
        is_what_it_is=_is_what_it_is(noun),
        is_pointed=_is_pointed(noun),
        is_topic=_is_topic(noun),
        is_part=_is_part(noun),
    )


def _composed(noun: Token) -> list[Token]:
    """The nouns right before a noun that it is composed with, in order."""
    before: list[Token] = []
    place = noun.i - 1
    while place >= 0 and len(before) < MOST_WORDS - 1:
        each = noun.doc[place]
        if each.dep_ != "compound" or each.pos_ != "NOUN" or not each.is_alpha:
            break
        before.insert(0, each)
        place -= 1
    return before


def _described(noun: Token, before: Sequence[Token], lemmas: Sequence[str]) -> str:
    place = (before[0] if before else noun).i - 1
    adjective = noun.doc[place] if place >= 0 else noun
    return " ".join((adjective.lower_, *lemmas)) if is_adjective(adjective) else ""


def _is_own(noun: Token) -> bool:
    """Whether it is the writer's: "my hair", "the look of my hair"."""
    of = [each for prep in noun.children if prep.lower_ == "of" for each in prep.subtree]
    return any(each.lower_ in _OWNERS for each in (*noun.children, *of) if each.dep_ == "poss")


def _is_of_another(noun: Token) -> bool:
    """Whether it stands behind "than" or "unlike", and is another item's."""
    head = noun.head
    return noun.dep_ == "pobj" and (head.lower_ in _OTHERS or head.head.lower_ in _OTHERS)


def _of(noun: Token) -> str:
    """What follows it with "of" and no article: "use" of "ease of use"."""
    place = noun.i + 2
    if place >= len(noun.doc) or noun.nbor().lower_ != "of":
        return ""
    behind = noun.doc[place]
    is_bare = behind.dep_ == "pobj" and behind.head.head == noun and behind.pos_ == "NOUN"
    return str(behind.lower_) if is_bare and behind.is_alpha else ""


def _is_pointed(noun: Token) -> bool:
    this = "these" if noun.tag_ == "NNS" else "this"  # "these sound good" points at no sound
    return any(each.dep_ == "det" and each.lower_ == this for each in noun.children)


def _is_what_it_is(noun: Token) -> bool:
    """Whether the text says `this film`, `it is a film`, or "A film about love." and no more."""
    if noun.dep_ == "ROOT" and noun.left_edge.lower_ in _ONE:
        return any(each.dep_ == "prep" for each in noun.children)
    is_said = noun.dep_ == "attr" and any(_is_item(each) for each in noun.head.children)
    return is_said or _is_pointed(noun)


def _is_topic(noun: Token) -> bool:
    """Whether it says "I love this light" or "this is a light" of the item; "at this price" not."""
    if noun.dep_ == "attr" and noun.left_edge.lower_ in _ONE:
        return any(_is_item(each) and each.lower_ in _THE for each in noun.head.children)
    return noun.dep_ in ("nsubj", "nsubjpass", "dobj") and _is_pointed(noun)


def _is_item(token: Token) -> bool:
    return token.dep_ in ("nsubj", "nsubjpass") and token.lower_ in _ITEM


def _is_part(noun: Token) -> bool:
    """Whether the text says that the item has it, or how the one it has is."""
    words = {each.lower_ for each in noun.children if each.dep_ in ("det", "poss")}
    if not _ITS.isdisjoint(words):
        return True
    first = first_of(noun)
    if first.dep_ == "dobj" and first.head.lemma_ in _HAS:
        return any(
            _is_item(each) or (each.dep_ == "nsubj" and _is_what_it_is(each))
            for each in first.head.children
        )
    return "the" in words and any(True for _ in predicates(noun))


def _implied(value: Valence, token: Token) -> Mention | None:
    """What an adjective or a verb says of the item itself: it is comfortable, it sounds great."""
    shown = ""
    if token.pos_ == "VERB":
        if token.tag_ == "VBN" and (well := by_adverb(value, token)):
            return _deed(token, well)
        of = _named_subject(token)
        names: tuple[str, ...] = (token.lemma_.lower(),)
        said = [each for each in token.children if each.dep_ == "acomp" and each.pos_ == "ADJ"]
        judged = [(each, judgement(value, each, token)) for each in with_joined(said)]
        strength = next((found for _, found in judged if found), 0.0)
        shown = next((form_of(each) for each, found in judged if found > 0), "")
    elif token.pos_ == "ADJ" and not has_no_opinion(token):
        of, strength = _described_item(token), judgement(value, token, token)
        names = _nouns_of(token, is_known=strength != 0)
        if not strength:
            strength = -LOVED if is_denied(token, token) else LOVED
    else:
        return None
    strength = strength * reality(token) if strength > 0 else strength
    if of is None or not strength or not names:
        return None
    by: Literal["verb", "adjective"] = "verb" if token.pos_ == "VERB" else "adjective"
    return Mention(names, names, shown if strength > 0 else "", strength, implied_by=by, of=of)


def _deed(participle: Token, strength: float) -> Mention | None:
    """What is said of an item that is well written, or beautifully photographed."""
    of = _described_item(participle) if participle.dep_ != "ROOT" else _named_subject(participle)
    if of is None:
        return None
    if is_denied(participle, participle):
        strength = -strength
    strength = strength * reality(participle) if strength > 0 else strength
    lemma = participle.lemma_.lower()  # what is well written has good writing
    names = ("workmanship" if lemma == "make" else f"{lemma.removesuffix('e')}ing",)
    return Mention(names, names, "", strength, implied_by="adjective", of=of) if strength else None


def _described_item(adjective: Token) -> str | None:
    """Of which noun an adjective is said; "" of `it`, None of what is no item.

    What it stands before is the item where the text calls it so, or says nothing else of it: with
    "a portable amp" a cable may be used.
    """
    if adjective.dep_ == "amod":
        noun = adjective.head
        is_item = first_of(noun).dep_ in _TOLD or any(each.lower_ in _THE for each in noun.children)
        return str(noun.lemma_.lower()) if noun.pos_ == "NOUN" and is_item else None
    if adjective.dep_ == "conj" and adjective.head.pos_ in ("ADJ", "VERB"):
        return _described_item(adjective.head)
    if adjective.dep_ == "acomp" and adjective.head.lemma_ == "be":
        return _named_subject(adjective.head)
    return None


def _named_subject(verb: Token) -> str | None:
    """The noun that is a verb's subject; "" for `it`, None if there is no such."""
    for each in verb.children:
        if each.dep_ in ("nsubj", "nsubjpass"):
            if each.lower_ in _ITEM:
                return ""
            return str(each.lemma_.lower()) if each.pos_ == "NOUN" else None
    return None


def _nouns_of(adjective: Any, *, is_known: bool) -> tuple[str, ...]:
    """The nouns that an adjective may be the quality of; "easy to use" too.

    If it is not known how good it is, only those that are good to have.
    """
    word = adjective.lower_
    infinitives = [each for each in adjective.children if each.dep_ in ("xcomp", "advcl", "ccomp")]
    if word in ("easy", "simple"):
        return tuple(f"ease of {each.lemma_}" for each in infinitives)
    if infinitives:
        return ()
    made = (
        word.removesuffix(old) + new
        for old, new in ((*_GOOD, *_FURTHER) if is_known else _GOOD)
        if word.endswith(old) and len(word) - len(old) + len(new) > _LEAST_LETTERS
    )
    return tuple(dict.fromkeys(made))
