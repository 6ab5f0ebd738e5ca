"""The normal form of an aspect's name."""

import re
from functools import lru_cache

from xrec.data.english import singular

_MARKS = re.compile(r"[^\w\s'&/+-]|_")
_BLANKS = re.compile(r"\s+")
_ARTICLES = ("the ", "a ", "an ", "its ", "their ", "his ", "her ", "my ", "this ", "very ")


@lru_cache(2**16)
def normalized(aspect: str) -> str:
    """An aspect in lower case, its last word in the singular, without articles and marks."""
    words = _BLANKS.sub(" ", _MARKS.sub(" ", aspect.casefold())).strip(" '-&/+")
    while words.startswith(_ARTICLES):
        words = words.partition(" ")[2]
    before, blank, last = words.rpartition(" ")
    return f"{before}{blank}{singular(last)}"
