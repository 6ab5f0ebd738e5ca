"""English word lists, compared by stem, and patterns for the checks; `english.yaml` has the data.

Stems come from Snowball (Porter2), so that "pastry" supports "pastries".
"""

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib import resources
from typing import Any

import yaml

from xrec.checks.tokens import word_key
from xrec.data.language import tags, word_set

ASPECT, HIDDEN = "\ue000", "\ue001"
"""Placeholders in a text for a chosen aspect, and for words that do not count toward its tone."""
_FUNCTION_TAGS = word_set("CC DT EX IN MD PDT POS PRP PRP$ RP TO WDT WP WP$ WRB")
_CONTRACTION = re.compile(r"[a-z]+(?:n't|'(?:ll|re|ve|d|m|s))")


@cache
def data() -> Mapping[str, Any]:
    """Return the content of `english.yaml`."""
    text = (resources.files(__package__) / "english.yaml").read_text("utf-8")
    loaded: Mapping[str, Any] = yaml.safe_load(text)
    return loaded


@cache
def pattern(name: str) -> re.Pattern[str]:
    """Return the compiled pattern `name` of `english.yaml`."""
    alternatives = "|".join(data()["patterns"][name]["pattern"])
    return re.compile(
        alternatives.replace("DENIAL", data()["denial"]).replace("ASPECT", ASPECT), re.IGNORECASE
    )


@cache
def words(name: str) -> frozenset[str]:
    """Return the word list `name` of `english.yaml`."""
    return word_set(data()[name])


@lru_cache(2**16)
def stem_of(key: str) -> str:
    """Return the stem of a lowercase word."""
    return str(_stemmer().stem(key))


def stems_of(key: str) -> frozenset[str]:
    """Return the stems that support a word: its own, and those of words that mean or imply it."""
    stem = stem_of(key)
    return _synonyms().get(stem, frozenset((stem,)))


def is_frame(key: str) -> bool:
    """Return whether a lowercase word needs no support: a function word, or one in `frame`."""
    key = key.replace("\u2019", "'")
    is_function_word = tags().get(key) in _FUNCTION_TAGS or _CONTRACTION.fullmatch(key) is not None
    return is_function_word or stem_of(key) in _frame()


@cache
def _stemmer() -> Any:
    from nltk.stem.snowball import EnglishStemmer  # takes a second to import

    return EnglishStemmer()


@cache
def _frame() -> frozenset[str]:
    return _stems(data()["frame"])


@cache
def _synonyms() -> dict[str, frozenset[str]]:
    support: dict[str, frozenset[str]] = {}
    for line in data()["synonyms"]:
        implied, _, implying = line.partition(":")
        for stem in _stems(implied):
            support[stem] = support.get(stem, frozenset()) | _stems(f"{implied} {implying}")
    return support


def _stems(text: str) -> frozenset[str]:
    return frozenset(stem_of(word_key(word)) for word in text.split())
