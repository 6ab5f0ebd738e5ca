"""The normal form of an aspect's name."""

import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import regex

from xrec.data.english import singular

# Letters keep their marks (Hindi, Thai, Arabic) and joiners (Persian); marks of anything else go.
_MARKS = regex.compile(
    r"(?<![\p{L}\p{N}\p{M}\u200c\u200d])[\p{M}\u200c\u200d]+"
    r"|[^\p{L}\p{N}\p{M}\u200c\u200d\s'&/+-]"
)
_BLANKS = regex.compile(r"\s+")
_ARTICLES = ("the ", "a ", "an ", "its ", "their ", "his ", "her ", "my ", "this ", "very ")


@lru_cache(2**16)
def normalized(aspect: str, *, is_english: bool = True) -> str:
    """An aspect composed (NFC), in lower case and without marks; "" if it has no letters.

    is_english: whether articles go too, and the last word becomes the singular. Their rules would
    destroy words of other languages: the "s" of "Glas" is none of a plural.
    """
    composed = unicodedata.normalize("NFC", aspect).lower()
    words: str = _BLANKS.sub(" ", _MARKS.sub(" ", composed)).strip(" '-&/+")
    if not is_english:
        return words
    while words.startswith(_ARTICLES):
        words = words.partition(" ")[2]
    before, blank, last = words.rpartition(" ")
    return f"{before}{blank}{singular(last)}"


def names_are_english(settings: Mapping[str, Any]) -> bool:
    """Whether an annotator with these settings names aspects in English.

    settings: of its spec, as they stand in the manifest. The one without a language knows English
    only.
    """
    return "english" in str(settings.get("language", "English")).lower()
