"""English words by their stems: which of them say nothing of an item, and which mean the same.

Stems are those of Snowball (Porter2), so that "pastries" is backed by "pastry". The lists are data:
`frame_words.txt`, `frame_phrases.txt` and `synonyms.txt`.
"""

import re
from functools import cache, lru_cache
from importlib import resources
from typing import Any

from xrec.checks.phrases import Named, PhraseIndex
from xrec.checks.tokens import Tokens, word_key
from xrec.data.english import tags, word_set

_FUNCTION_TAGS = word_set("CC DT EX IN MD PDT POS PRP PRP$ RP TO WDT WP WP$ WRB")
_CONTRACTION = re.compile(r"[a-z]+(?:n't|'(?:ll|re|ve|d|m|s))")


@lru_cache(2**16)
def stem_of(key: str) -> str:
    """Return the stem of a word in lower case."""
    return str(_stemmer().stem(key))


def stems_of(key: str) -> frozenset[str]:
    """Return the stems that support a word: its own, and those that mean or imply it."""
    stem = stem_of(key)
    return _synonyms().get(stem, frozenset((stem,)))


def is_frame(key: str) -> bool:
    """Whether a word in lower case needs no support: a function word, or one of the list."""
    key = key.replace("\u2019", "'")
    is_function_word = tags().get(key) in _FUNCTION_TAGS or _CONTRACTION.fullmatch(key) is not None
    return is_function_word or stem_of(key) in _frame()


def frame_phrases(tokens: Tokens) -> list[Named]:
    """Return the phrases that say nothing of an item, though their words alone might."""
    return _phrases().find_in(tokens)


@cache
def _stemmer() -> Any:
    from nltk.stem.snowball import EnglishStemmer  # it takes a second to import

    return EnglishStemmer()


@cache
def _frame() -> frozenset[str]:
    return frozenset().union(*map(_stems, _lines("frame_words.txt")))


@cache
def _phrases() -> PhraseIndex:
    return PhraseIndex(_lines("frame_phrases.txt"))


@cache
def _synonyms() -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for line in _lines("synonyms.txt"):
        implied, _, implying = line.partition(":")
        for stem in _stems(implied):
            found[stem] = found.get(stem, frozenset()) | _stems(f"{implied} {implying}")
    return found


def _stems(words: str) -> frozenset[str]:
    return frozenset(stem_of(word_key(word)) for word in words.split())


def _lines(name: str) -> list[str]:
    text = (resources.files(__package__) / name).read_text("utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]
