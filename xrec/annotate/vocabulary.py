"""The vocabulary of aspects: maps the many names that annotators write to one name per aspect.

Names are compared in lowercase and, in English, in the singular. Then the config's synonyms apply.
"""

import functools
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

import regex

from xrec.data.language import singular


def canonical_names(
    names: Iterable[str], config: Mapping[str, Any], *, is_english: bool
) -> list[str | None]:
    """Return the aspect of each name, or None if it is dropped or has no letters.

    config: a VocabularyConfig as JSON. English names have their own normal form.
    """
    normal = functools.partial(normalized, is_english=is_english)
    synonyms = {normal(name): normal(other or "") for name, other in config["synonyms"].items()}
    dropped = {"", *(name for name, other in synonyms.items() if not other)}
    aspects = (synonyms.get(name, name) for name in map(normal, names))
    return [None if aspect in dropped else aspect for aspect in aspects]


# Letters keep their marks (Hindi, Thai, Arabic) and joiners (Persian); others are removed.
_MARKS = regex.compile(
    r"(?<![\p{L}\p{N}\p{M}\u200c\u200d])[\p{M}\u200c\u200d]+"
    r"|[^\p{L}\p{N}\p{M}\u200c\u200d\s'&/+-]"
)
_BLANKS = regex.compile(r"\s+")
_ARTICLES = ("the ", "a ", "an ", "its ", "their ", "his ", "her ", "my ", "this ", "very ")


@functools.lru_cache(2**16)
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
