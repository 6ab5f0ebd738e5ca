"""What a review says of which thing: its nouns, each with the opinion that the sentence has on it.

Of "a warm tone", "the tone is very warm" and "it sounds warm" the opinion on the tone is warm. All
is read from the parse: a negation turns an opinion around, what is too much of something is blame,
and a condition, a wish, a question or a comparison with another thing praises nothing.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from xrec.annotate.annotator import Sentiment
from xrec.annotate.phrases.derived import noun_of_deed, nouns_of
from xrec.data.english import valence, word_set
from xrec.data.language import language_of
from xrec.data.parser import parse

Token = Any
"""A token of spaCy."""
Valence = Callable[[str], float]
"""How good or bad a word sounds, from -1 to 1."""
MOST_WORDS = 3  # of a noun with those that it is composed with
_KEPT = 2**14  # texts: a profile is written once more without each of its reviews
_CONDITIONS = word_set("if unless whether")
_WISHES = word_set("wish hope want need expect")
_MIGHT = word_set("could should would might may")
_MORE = word_set("JJR RBR")
_OTHERS = word_set("than unlike")
_ITEM = word_set("it this that they these")
_THIS = word_set("this these")
_ITS = word_set("its their")
_HAS = word_set("have has offer provide give produce feature include deliver make")
# Adjectives of order, identity and quantity, which praise nothing whatever the lexicons say.
_NO_OPINION = word_set(
    "own first last next second third other same such many much more most few several certain "
    "different only whole entire total main new old original available able sure right real true "
    "full special particular important popular worth alright okay overall general possible likely "
    "necessary free large big huge small little high low long short light single various"
)
_NOT_ONLY = word_set("only just merely")
_OWNERS = word_set("my our your")
_ENDS = word_set("free less proof")
_BEATEN = word_set("beat fault")  # "you can't beat the price"
_LOVED = 0.5  # strength of a judgement that no adjective makes


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
        is_pointed: by `this` or `these`.
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
    """Reads texts by the pipeline `parser`; `learned` are further valences of words."""

    def __init__(self, parser: str, learned: Mapping[str, float]):
        self._parser, self._learned = parser, learned
        self._known: dict[str, tuple[Mention, ...] | None] = {}

    def parse(self, texts: Iterable[str]) -> None:
        """Read texts ahead: many at once are faster than one by one."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if len(self._known) > _KEPT:
            self._known.clear()
        english = [text for text in new if is_english(text)]
        self._known.update(dict.fromkeys(new))
        for text, doc in zip(english, parse(english, self._parser), strict=True):
            self._known[text] = read(doc, self._valence).mentions

    def mentions(self, text: str) -> tuple[Mention, ...] | None:
        """What a text mentions, in its order; None if it is in another language than English."""
        if text not in self._known:
            self.parse([text])
        return self._known[text]

    def _valence(self, word: str) -> float:
        return valence(word) or self._learned.get(word, 0.0)


def is_english(text: str) -> bool:
    """Whether a text is in English, or too short to tell."""
    return language_of(text) in ("en", None)


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
    if noun.i + 1 < len(noun.doc) and noun.nbor().lower_ in _ENDS and not noun.whitespace_:
        return None  # streak-free
    if _is_of_another(noun) or any(each.lower_ in _ENDS for each in noun.ancestors):
        return None
    before, behind = _composed(noun), _of(noun)
    lemmas = [*(each.lower_ for each in before), noun.lemma_.lower()]
    lower = [*(each.lower_ for each in before), noun.lower_]
    if behind:
        lemmas[-1], lower[-1] = f"{lemmas[-1]} of {behind}", f"{lower[-1]} of {behind}"
    opinion, strength = _said_of(value, noun)
    return Mention(
        tuple(" ".join(lemmas[first:]) for first in range(len(lemmas))),
        tuple(" ".join(lower[first:]) for first in range(len(lower))),
        opinion,
        strength,
        described=_described(noun, before, lemmas),
        is_named=any(each.pos_ == "PROPN" for each in noun.lefts),
        is_own=any(each.dep_ == "poss" and each.lower_ in _OWNERS for each in noun.children),
        is_what_it_is=_is_what_it_is(noun),
        is_pointed=_is_pointed(noun),
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
    is_before = adjective.dep_ == "amod" and adjective.pos_ == "ADJ"
    return " ".join((adjective.lower_, *lemmas)) if is_before else ""


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
    return any(each.dep_ == "det" and each.lower_ in _THIS for each in noun.children)


def _is_what_it_is(noun: Token) -> bool:
    """Whether the text says `this film`, or `it is a film`."""
    if _is_pointed(noun):
        return True
    return noun.dep_ == "attr" and any(_is_item(each) for each in noun.head.children)


def _is_item(token: Token) -> bool:
    return token.dep_ in ("nsubj", "nsubjpass") and token.lower_ in _ITEM


def _is_part(noun: Token) -> bool:
    """Whether the text says that the item has it, or how the one it has is."""
    words = {each.lower_ for each in noun.children if each.dep_ in ("det", "poss")}
    if not _ITS.isdisjoint(words):
        return True
    first = _first_of(noun)
    if first.dep_ == "dobj" and first.head.lemma_ in _HAS:
        return any(
            _is_item(each) or (each.dep_ == "nsubj" and _is_what_it_is(each))
            for each in first.head.children
        )
    return "the" in words and any(True for _ in _predicates(noun))


def _first_of(noun: Token) -> Token:
    """The noun that "and" joins this one to, whose place in the sentence is its own too."""
    return noun.head if noun.dep_ == "conj" and noun.head.pos_ == "NOUN" else noun


def _said_of(value: Valence, noun: Token) -> tuple[str, float]:
    """What its adjectives, or else the verb around it, say of a noun: opinion and strength."""
    own = [each for each in noun.children if each.dep_ == "amod" and each.pos_ == "ADJ"]
    adjectives = [*_with_joined(own), *_predicates(noun)]
    judged = [(each, _judgement(value, each, noun)) for each in adjectives]
    strength = next((judgement for _, judgement in judged if judgement), 0.0)
    if not strength:
        strength = _by_verb(value, noun)
    shown = next(
        (
            each.lower_
            for each, judgement in judged
            if judgement > 0 and each.tag_ == "JJ" and value(each.lower_) > 0
        ),
        "",
    )
    strength = strength * _reality(noun) if strength > 0 else strength
    return shown if strength > 0 else "", strength


def _with_joined(adjectives: list[Token]) -> Iterator[Token]:
    for each in adjectives:
        yield each
        yield from (other for other in each.conjuncts if other.pos_ == "ADJ")


def _subject_of(noun: Token) -> Token | None:
    """The verb of which the noun, or what it is joined to, is the subject."""
    first = _first_of(noun)
    return first.head if first.dep_ in ("nsubj", "nsubjpass") else None


def _predicates(noun: Token) -> Iterator[Token]:
    """Adjectives behind a verb such as `is` or `sounds` of which the noun is the subject."""
    verb = _subject_of(noun)
    if verb is not None:
        found = [
            each for each in verb.children if each.dep_ in ("acomp", "oprd") and each.pos_ == "ADJ"
        ]
        yield from _with_joined(found)


def _judgement(value: Valence, adjective: Token, of: Token) -> float:
    """How good an adjective makes what it is said of."""
    strength = 0.0 if adjective.lower_ in _NO_OPINION else value(adjective.lower_)
    if not strength:
        return 0.0
    if any(each.lower_ == "too" and each.dep_ == "advmod" for each in adjective.children):
        return -abs(strength)
    return -strength if _is_denied(adjective, of) else strength


def _is_denied(word: Token, of: Token) -> bool:
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
    is_denied = any(
        each.i + 1 >= len(each.doc) or each.nbor().lower_ not in _NOT_ONLY for each in denials
    )
    if of.dep_ == "pobj" and of.head.lower_ == "without":
        is_denied = True
    if of.dep_ == "dobj" and of.head.lemma_ == "lack":
        is_denied = True
    return is_denied and word.tag_ not in _MORE


def _by_verb(value: Valence, noun: Token) -> float:
    """What a verb says of its subject ("the song rocks", "works well") or object ("I love")."""
    verb = _subject_of(noun)
    if verb is not None:
        does = verb.pos_ == "VERB" and all(each.dep_ != "dobj" for each in verb.children)
        strength = (value(verb.lemma_) or _by_adverb(value, verb)) if does else 0.0
        nouns = (each for each in verb.children if each.dep_ == "attr" and each.pos_ == "NOUN")
        strength = strength or next((value(each.lemma_) for each in nouns), 0.0)
    else:
        first = _first_of(noun)
        if first.dep_ != "dobj":
            return 0.0
        verb, strength = first.head, value(first.head.lemma_)
    is_denied = _is_denied(verb, noun)
    if is_denied and verb.lemma_ in _BEATEN:
        return _LOVED
    if not strength:
        return 0.0
    return math.copysign(_LOVED, -strength if is_denied else strength)


def _by_adverb(value: Valence, verb: Token) -> float:
    adverbs = (each for each in verb.children if each.dep_ == "advmod")
    return next((strength for each in adverbs if (strength := value(each.lower_))), 0.0)


def _reality(token: Token) -> float:
    """What is left of praise: 1 of a fact, 0 of a condition or a question, less of a wish.

    "I wish it had a warm tone" and "it could have a warmer tone" blame.
    """
    if token.sent[-1].text == "?":
        return 0.0
    for verb in (token, *token.ancestors):
        words = {each.lower_: each.dep_ for each in verb.children}
        is_denied = "neg" in words.values()
        if not _CONDITIONS.isdisjoint(word for word, dep in words.items() if dep == "mark"):
            return 0.0
        if verb is not token and verb.lemma_ in _WISHES and not is_denied:
            return -1.0 if verb.lemma_ == "wish" else 0.0
        if not is_denied and any(dep == "aux" and word in _MIGHT for word, dep in words.items()):
            asks = any(each.tag_ in _MORE for each in verb.subtree)
            return -1.0 if asks else 1.0 if "would" in words else 0.0
        if verb.dep_ in ("ccomp", "relcl", "advcl") and verb is not token:
            continue
    return 1.0


def _implied(value: Valence, token: Token) -> Mention | None:
    """What an adjective or a verb says of the item itself: it is comfortable, it sounds great."""
    shown = ""
    if token.pos_ == "VERB":
        if token.tag_ == "VBN" and (well := _by_adverb(value, token)):
            return _deed(token, well)
        of = _named_subject(token)
        names: tuple[str, ...] = (token.lemma_.lower(),)
        said = [each for each in token.children if each.dep_ == "acomp" and each.pos_ == "ADJ"]
        judged = [(each, _judgement(value, each, token)) for each in _with_joined(said)]
        strength = next((found for _, found in judged if found), 0.0)
        shown = next((each.lower_ for each, found in judged if found > 0), "")
    elif token.pos_ == "ADJ" and token.lower_ not in _NO_OPINION:
        of, strength = _described_item(token), _judgement(value, token, token)
        names = nouns_of(token, is_known=strength != 0)
        if not strength:
            strength = -_LOVED if _is_denied(token, token) else _LOVED
    else:
        return None
    strength = strength * _reality(token) if strength > 0 else strength
    if of is None or not strength or not names:
        return None
    by: Literal["verb", "adjective"] = "verb" if token.pos_ == "VERB" else "adjective"
    return Mention(names, names, shown if strength > 0 else "", strength, implied_by=by, of=of)


def _deed(participle: Token, strength: float) -> Mention | None:
    """What is said of an item that is well written, or beautifully photographed."""
    of = _described_item(participle) if participle.dep_ != "ROOT" else _named_subject(participle)
    if of is None:
        return None
    if _is_denied(participle, participle):
        strength = -strength
    strength = strength * _reality(participle) if strength > 0 else strength
    names = (noun_of_deed(participle),)
    return Mention(names, names, "", strength, implied_by="adjective", of=of) if strength else None


def _described_item(adjective: Token) -> str | None:
    """Of which noun an adjective is said; "" of `it`, None of what is no item."""
    if adjective.dep_ == "amod":
        return str(adjective.head.lemma_.lower()) if adjective.head.pos_ == "NOUN" else None
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
