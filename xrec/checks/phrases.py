"""Phrases of a vocabulary in texts: which are named, and where."""

from collections.abc import Iterable
from dataclasses import dataclass

from xrec.checks.tokens import Tokens, tokens_of


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
    """Finds the aspects of a catalogue's vocabulary, the most frequent first, in texts."""
