"""Phrases of a vocabulary in texts: which are named, and where."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from xrec.checks.tokens import Tokens, tokens_of
from xrec.data.english import tags, word_set
from xrec.data.titles import Span

_VERBS_TOO = word_set("care use need value sound taste work love want hope plan")
_MODALS = word_set("will would can could should may might must shall cannot please")
_SHORTENED_MODALS = ("n't", "'ll", "'d")
_SINGULAR_SUBJECTS = word_set("it he she which who")
_BEFORE_VERBS = word_set("you we they i who to not")
_AFTER_IMPERATIVES = word_set("at for no out into forward like")


@dataclass(frozen=True)
class Named:
    """A phrase that a text names: its words `first` to `stop`, its characters `start` to `end`.

    The text is in Unicode's composed form (`composed`).
    """

    name: str
    first: int
    stop: int
    start: int
    end: int

    def is_within(self, spans: Iterable[Span]) -> bool:
        """Whether one of the spans of characters holds it."""
        return any(start <= self.start and self.end <= end for start, end in spans)


class PhraseIndex:
    """Finds the phrases of a vocabulary in texts.

    Whole words are compared, in any case, in the singular and without the "'s" of a possessive;
    hyphens count as blanks, and "&" as "and". The singular is that of English.
    """

    def __init__(self, phrases: Iterable[str]):
        self._names: dict[tuple[str, ...], str] = {}
        self._by_first: dict[str, list[tuple[list[str], str]]] = {}
        for phrase in phrases:
            keys = tuple(tokens_of(phrase).keys)
            if keys and keys not in self._names:
                self._names[keys] = phrase
                self._by_first.setdefault(keys[0], []).append((list(keys), phrase))
        for same_first in self._by_first.values():
            same_first.sort(key=lambda entry: -len(entry[0]))

    def find(self, text: str) -> list[Named]:
        """The phrases that `text` names, in order; none that stands within a longer one.

        Of phrases that are the same but for case, number and hyphens it is the first.
        """
        return self.find_in(tokens_of(text))

    def find_in(self, tokens: Tokens) -> list[Named]:
        """What `find` gives, for a text that is in words already."""
        found: list[Named] = []
        keys, longest_stop = tokens.keys, 0
        for first, key in enumerate(keys):
            for phrase, name in self._by_first.get(key, ()):
                stop = first + len(phrase)
                if stop <= longest_stop:
                    break  # it, and the shorter ones, stand within a phrase that began before
                if keys[first:stop] == phrase and tokens.are_joined(first, stop):
                    start, end = tokens.spans[first][0], tokens.spans[stop - 1][1]
                    found.append(Named(name, first, stop, start, end))
                    longest_stop = stop
                    break
        return found

    def same(self, phrase: str) -> str:
        """The phrase of the vocabulary that is found where `phrase` is named, or `phrase`."""
        return self._names.get(tuple(tokens_of(phrase).keys), phrase)


class AspectNames(PhraseIndex):
    """Finds the aspects of a catalogue's vocabulary, the most frequent first, in texts.

    A word that is a verb there, or the reader's own, is no aspect of an item: "Look at it", "what
    you look for", "it sounds warm", "suits your taste".
    """

    def build(self) -> None:
        """Read the lexicon of English now, if there are aspects; otherwise the first search does.

        Calling this twice has no effect.
        """
        if self._names:
            _ = tags()

    def are_named(self, aspects: Iterable[str], text: str) -> list[bool]:
        """Whether `text` names each of the `aspects`, which are of the vocabulary."""
        named = {found.name for found in self.find(text)}
        return [self.same(aspect) in named for aspect in aspects]

    @cached_property
    def last_words(self) -> "AspectNames":
        """The words that aspects of several words end with: "service" of "friendly service"."""
        return AspectNames(keys[-1] for keys in self._names if len(keys) > 1)

    def find_in(self, tokens: Tokens) -> list[Named]:
        """What `find` gives, for a text that is in words already."""
        return [
            each
            for each in super().find_in(tokens)
            if each.stop - each.first > 1
            or not (_is_the_readers(tokens, each.first) or _is_verb(tokens, each.first))
        ]


def _is_the_readers(tokens: Tokens, place: int) -> bool:
    return place > 0 and tokens.keys[place - 1] == "your"


def _is_verb(tokens: Tokens, place: int) -> bool:
    """Whether an English word is a verb, as far as the words beside it tell."""
    word = tokens.keys[place]
    may_be_verb = word in _VERBS_TOO or tags().get(word, "").startswith("VB")
    if place == 0:
        return may_be_verb and len(tokens) > 1 and tokens.keys[1] in _AFTER_IMPERATIVES
    before = tokens.word(place - 1).casefold().replace("\u2019", "'")
    if before in _MODALS or before.endswith(_SHORTENED_MODALS):
        return True
    if before in _SINGULAR_SUBJECTS and tokens.word(place).casefold() != word:  # it sounds
        return True
    return may_be_verb and before in _BEFORE_VERBS
