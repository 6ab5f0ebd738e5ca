"""The vocabulary of aspects: maps the many names that annotators write to one name per aspect.

Names are compared in lowercase and, in English, in the singular. Then the config's synonyms apply.
"""

import functools
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import regex

from xrec.data.language import language_code, singular


class Vocabulary:
    """A map from names to aspects; English names have their own normal form."""

    def __init__(self, synonyms: Mapping[str, str], drop: Iterable[str], *, is_english: bool):
        self._normalized = functools.partial(normalized, is_english=is_english)
        self._synonyms = {
            self._normalized(name): self._normalized(other) for name, other in synonyms.items()
        }
        self._dropped = set(map(self._normalized, drop))

    def canonical(self, name: str) -> str | None:
        """Return the aspect, or None if it is dropped or has no letters."""
        normal = self._normalized(name)
        aspect = self._synonyms.get(normal, normal)
        return aspect if aspect and aspect not in self._dropped else None


# Letters keep their marks (Hindi, Thai, Arabic) and joiners (Persian); others are removed.
_MARKS = regex.compile(
    r"(?<![\p{L}\p{N}\p{M}\u200c\u200d])[\p{M}\u200c\u200d]+"
    r"|[^\p{L}\p{N}\p{M}\u200c\u200d\s'&/+-]"
)
_BLANKS = regex.compile(r"\s+")
_ARTICLES = ("the ", "a ", "an ", "its ", "their ", "his ", "her ", "my ", "this ", "very ")


@lru_cache(2**16)
def normalized(aspect: str, *, is_english: bool = True) -> str:
    """Return an aspect in NFC, in lowercase and without most punctuation; "" if it has no letters.

    is_english: whether to remove articles too, and make the last word singular. These rules would
    damage words of other languages: the "s" in "Glas" is not a plural ending.
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
    """Return whether an annotator with these settings, from a manifest, names aspects in English.

    An annotator without a language setting supports only English.
    """
    return language_code(settings.get("language", "English")) == "en"
