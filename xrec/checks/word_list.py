"""The list of words that no text may hold, which the configuration names."""

from collections.abc import Iterable

import regex

from xrec.checks.phrases import PhraseIndex
from xrec.config.checks import ChecksConfig
from xrec.config.shared import StorageConfig
from xrec.data.titles import Span, composed
from xrec.errors import DataError, StorageError
from xrec.storage import open_location

_COMMENT = "#"
_LETTER = r"[\p{L}\p{M}\p{N}\p{Pc}]"
# Words with blanks or one mark between them, of the marks that `PhraseIndex` overlooks.
_PLAIN = regex.compile(rf"{_LETTER}+(?:\s*[-\u2010\u2011/'\u2019&\s]\s*{_LETTER}+)*['\u2019]?")
_STARTS_WITH_LETTER, _ENDS_WITH_LETTER = regex.compile(_LETTER), regex.compile(f"{_LETTER}$")
_START, _END = r"(?:\b|(?<=['\u2019.]))", r"(?:\b|(?=['\u2019.]))"  # of a word, as in "b!tch's"


class WordList:
    """Finds words and phrases in texts.

    One of letters alone is found as `PhraseIndex` finds it: whole words, in any case and number.
    One with other marks ("sh*t", "a$$") is found where it is written so, in any case, and not
    within a longer word: "bullsh*t" has no "sh*t". Its marks stand for themselves alone.
    """

    def __init__(self, phrases: Iterable[str]):
        phrases = [composed(phrase) for phrase in phrases]
        plain = [phrase for phrase in phrases if _is_plain(phrase)]
        written = sorted(set(phrases).difference(plain), key=len, reverse=True)
        self._plain = PhraseIndex(plain)
        self._written = regex.compile(
            "|".join(map(_pattern, written)) or r"(?!)", regex.V1 | regex.WORD | regex.IGNORECASE
        )

    def find(self, text: str) -> list[Span]:
        """Where `text`, which is composed, holds one of them, in order."""
        plain = [(found.start, found.end) for found in self._plain.find(text)]
        written = (match.span() for match in self._written.finditer(text, overlapped=True))
        return sorted([*plain, *written])


def check_word_list(checks: ChecksConfig, storage: StorageConfig) -> None:
    """Raise DataError if `checks` names a list that cannot be read or has no word."""
    if checks.unsafe_words is not None:
        read_word_list(checks.unsafe_words, storage)


def read_word_list(uri: str, storage: StorageConfig) -> WordList:
    """The words and phrases of a text file in UTF-8, one a line; lines with "#" first are comments.

    Raises DataError if the file cannot be read or has no word.
    """
    try:
        text = open_location(uri, storage).read_bytes().decode("utf-8-sig")
    except (StorageError, UnicodeDecodeError) as error:
        raise DataError(
            f"checks.unsafe_words: the list {uri} cannot be read ({error}); expected a text file "
            "in UTF-8 with one word or phrase a line. Name one that is there, or null for no list"
        ) from error
    lines = [line.strip() for line in text.splitlines()]
    words = [line for line in lines if line and not line.startswith(_COMMENT)]
    if not words:
        raise DataError(
            f"checks.unsafe_words: the list {uri} has no words; expected one word or phrase a line"
        )
    return WordList(words)


def _is_plain(phrase: str) -> bool:
    """Whether it has letters, and no marks but those that `PhraseIndex` overlooks."""
    return _PLAIN.fullmatch(phrase) is not None and any(map(str.isalnum, phrase))


def _pattern(phrase: str) -> str:
    """The phrase letter by letter, with any blanks; no word goes on beside its own letters."""
    start = _START if _STARTS_WITH_LETTER.match(phrase) else ""
    end = _END if _ENDS_WITH_LETTER.search(phrase) else ""
    return start + r"\s+".join(map(regex.escape, phrase.split())) + end
