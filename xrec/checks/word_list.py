"""The list of words that no text may hold, which the configuration names."""

from xrec.checks.phrases import PhraseIndex
from xrec.config.checks import ChecksConfig
from xrec.config.shared import StorageConfig
from xrec.errors import DataError, StorageError
from xrec.storage import open_location

_COMMENT = "#"


def check_word_list(checks: ChecksConfig, storage: StorageConfig) -> None:
    """Raise DataError if `checks` names a list that cannot be read or has no word."""
    if checks.unsafe_words is not None:
        read_word_list(checks.unsafe_words, storage)


def read_word_list(uri: str, storage: StorageConfig) -> PhraseIndex:
    """The words and phrases of a text file in UTF-8, one a line; lines from "#" on are comments.

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
    return PhraseIndex(words)
