"""Find phrases in texts: the aspects of a vocabulary, and the words of a list of unsafe words."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from xrec.checks.english import words
from xrec.checks.tokens import Tokens, tokens_of
from xrec.config import ChecksConfig, StorageConfig
from xrec.data.language import Span, composed, tags
from xrec.errors import DataError, StorageError
from xrec.storage import open_location

# Letters, and the punctuation that `PhraseIndex` ignores.
_PLAIN = re.compile(r"(?=.*[^\W_])[\w\s&/'\u2019\u2010\u2011-]+")
_SHORTENED_MODALS = ("n't", "'ll", "'d")


@dataclass(frozen=True)
class Named:
    """A phrase found in a text, at its words `first` to `stop` and characters `start` to `end`.

    Positions refer to the text in Unicode's composed form (`composed`).
    """

    name: str
    first: int
    stop: int
    start: int
    end: int

    def is_within(self, spans: Iterable[Span]) -> bool:
        """Return whether one of the character spans contains the phrase."""
        return any(start <= self.start and self.end <= end for start, end in spans)


class PhraseIndex:
    """Finds the phrases of a vocabulary in texts.

    Whole words are compared, ignoring case, in the English singular and without a possessive "'s";
    hyphens count as spaces, and "&" as "and".
    """

    def __init__(self, phrases: Iterable[str]):
        self._names: dict[tuple[str, ...], str] = {}
        self._by_first: dict[str, list[tuple[str, ...]]] = {}
        for phrase in phrases:
            keys = tuple(tokens_of(phrase).keys)
            if keys and keys not in self._names:
                self._names[keys] = phrase
                self._by_first.setdefault(keys[0], []).append(keys)
        for same_first in self._by_first.values():
            same_first.sort(key=len, reverse=True)

    def find(self, text: str) -> list[Named]:
        """Return the phrases in `text`, in order, without those inside a longer one.

        If phrases differ only in case, number or hyphens, the first of the vocabulary is returned.
        """
        return self.find_in(tokens_of(text))

    def find_in(self, tokens: Tokens) -> list[Named]:
        """Return what `find` returns, for a text that is already split into words."""
        matches: list[Named] = []
        longest_stop = 0
        for first, key in enumerate(tokens.keys):
            for phrase in self._by_first.get(key, ()):
                stop = first + len(phrase)
                if stop <= longest_stop:
                    break  # this phrase and all shorter ones are inside an earlier match
                if tuple(tokens.keys[first:stop]) == phrase and tokens.are_joined(first, stop):
                    start, end = tokens.spans[first][0], tokens.spans[stop - 1][1]
                    matches.append(Named(self._names[phrase], first, stop, start, end))
                    longest_stop = stop
                    break
        return matches

    def same(self, phrase: str) -> str:
        """Return the vocabulary's form of `phrase`, or `phrase` itself if it has none."""
        return self._names.get(tuple(tokens_of(phrase).keys), phrase)


class AspectNames(PhraseIndex):
    """Finds the aspects of a catalog's vocabulary, given most frequent first, in texts.

    A word used as a verb, or said about the reader, is not an aspect of an item: "Look at it",
    "what you look for", "it sounds warm", "suits your taste".
    """

    def build(self) -> None:
        """Load the English lexicon now instead of at the first search, if there are aspects.

        Further calls have no effect.
        """
        if self._names:
            _ = tags()

    def are_named(self, aspects: Iterable[str], text: str) -> list[bool]:
        """Return, for each of these aspects of the vocabulary, whether `text` names it."""
        names = {named.name for named in self.find(text)}
        return [self.same(aspect) in names for aspect in aspects]

    def find_in(self, tokens: Tokens) -> list[Named]:
        """Return what `find` returns, for a text that is already split into words."""
        return [
            named
            for named in super().find_in(tokens)
            if named.stop - named.first > 1 or not _is_verb_or_readers(tokens, named.first)
        ]


def _is_verb_or_readers(tokens: Tokens, index: int) -> bool:
    """Return whether a word, judging by its neighbors, is a verb or is said about the reader."""
    key, word = tokens.keys[index], tokens.word(index).casefold()
    may_be_verb = key in words("verbs_too") or tags().get(key, "").startswith("VB")
    if index == 0:
        after = tokens.keys[1] if len(tokens) > 1 else ""
        return may_be_verb and after in words("after_imperative")
    before = tokens.word(index - 1).casefold().replace("\u2019", "'")
    return (
        before in words("before_any")
        or before.endswith(_SHORTENED_MODALS)
        or (before in words("before_singular_verb") and word != key)  # it sounds
        or (before in words("before_verb") and may_be_verb)
    )


class WordList:
    """Finds words and phrases in texts.

    A phrase of letters is found as by `PhraseIndex`: as whole words, in any case and number. One
    with other characters ("sh*t", "a$$") is found wherever it occurs literally, ignoring case.
    """

    def __init__(self, phrases: Iterable[str]):
        phrases = [composed(phrase) for phrase in phrases]
        self._plain = PhraseIndex(filter(_PLAIN.fullmatch, phrases))
        written = [re.escape(phrase) for phrase in phrases if not _PLAIN.fullmatch(phrase)]
        self._written = re.compile("|".join(written) or r"(?!)", re.IGNORECASE)

    def find(self, tokens: Tokens) -> list[Span]:
        """Return the spans of the words and phrases in a text, in order."""
        plain = [(match.start, match.end) for match in self._plain.find_in(tokens)]
        return sorted([*plain, *(match.span() for match in self._written.finditer(tokens.text))])


def check_word_list(checks: ChecksConfig, storage: StorageConfig) -> None:
    """Raise DataError if `checks` names a word list that cannot be read or is empty."""
    if checks.unsafe_words is not None:
        read_word_list(checks.unsafe_words, storage)


def read_word_list(uri: str, storage: StorageConfig) -> WordList:
    """Return the words and phrases of a UTF-8 text file, one per line; "#" starts a comment line.

    Raises DataError if the file cannot be read or is empty.
    """
    try:
        text = open_location(uri, storage).read_bytes().decode("utf-8-sig")
    except (StorageError, UnicodeDecodeError) as error:
        raise DataError(
            f"checks.unsafe_words: cannot read the list {uri} ({error}); expected a UTF-8 text "
            "file with one word or phrase per line; set an existing file, or null for no list",
            code="list_unreadable",
            key="checks.unsafe_words",
            saw=uri,
        ) from error
    lines = [line.strip() for line in text.splitlines()]
    phrases = [line for line in lines if line and not line.startswith("#")]
    if not phrases:
        raise DataError(
            f"checks.unsafe_words: the list {uri} is empty; expected one word or phrase per line",
            code="list_empty",
            key="checks.unsafe_words",
            saw=uri,
        )
    return WordList(phrases)
