"""The vocabulary of aspects: what annotators call by many names becomes one aspect each.

Names are compared in lower case and, in English, in the singular. Synonyms of the config come next.
"""

import functools
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import regex

from xrec.data.english import singular
from xrec.data.language import language_code


class Vocabulary:
    """Finds the aspect that a name means.

    is_english: whether the names are English, which has its own normal form.
    """

    def __init__(self, synonyms: Mapping[str, str], drop: Iterable[str], *, is_english: bool):
        self._normalized = functools.partial(normalized, is_english=is_english)
        self._synonyms = {
            self._normalized(name): self._normalized(other) for name, other in synonyms.items()
        }
        self._dropped = set(map(self._normalized, drop))

    def canonical(self, name: str) -> str | None:
        """The aspect; None if it is dropped, or has no letters."""
        normal = self._normalized(name)
        aspect = self._synonyms.get(normal, normal)
        return aspect if aspect and aspect not in self._dropped else None


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
    return language_code(settings.get("language", "English")) == "en"
