"""Looks up English words in the lexicons of TextBlob and VADER, which ship with their packages.

TextBlob has Brill's lexicon, with the most likely part of speech (Penn Treebank tags) of 94,000
words, and the polarity of 2,800 adjectives. VADER has the valence of 7,500 words.
"""

import functools
from collections.abc import Mapping, Sequence


def word_set(words: str) -> frozenset[str]:
    """Return the words of a space-separated list."""
    return frozenset(words.split())


_KEEPS_ITS_S = ("ss", "us", "is", "ous", "ics", "'s")
_KEEP_THEIR_S = word_set(
    "pants jeans scissors shorts glasses clothes thanks series species news always sometimes "
    "perhaps its yes looks less this has was does bass glass brass lens gas bus plus chassis canvas"
)
_VADER_SCALE = 4.0
# Adjectives that can praise anything, and so say nothing specific.
PRAISE_OF_ANYTHING = word_set(
    "good great nice fine excellent amazing awesome perfect fantastic wonderful lovely superb "
    "terrific outstanding incredible best better cool decent okay"
)
# Words that can be repeated after "and"; the tags below can too: "louder and louder", "on and on".
_DOUBLED = word_set("time half neck hours days weeks months years miles lots tons loads")
_DOUBLED_TAGS = word_set("JJR RBR RB RP IN")
_LEAST_VALENCE = 0.15


@functools.cache
def tags() -> Mapping[str, str]:
    """Return the most likely tag of each word in the lexicon; most words are lowercase."""
    from textblob.en import lexicon

    lexicon.load()
    return {word: str(tag) for word, tag in lexicon.items()}


def with_capitals(words: str) -> str:
    """Return a phrase with capitals on the words that always have them: "Thai food"."""
    written = " ".join(
        # The lexicon lists "Vegans" as a people.
        word.capitalize()
        if word not in tags() and tags().get(word.capitalize(), "NNPS") != "NNPS"
        else word
        for word in words.split(" ")
    )
    return written.replace("middle eastern", "Middle Eastern")


def is_noun(word: str) -> bool:
    """Return whether a lowercase English word is usually a noun."""
    return tags().get(singular(word), "").startswith("NN")


def may_be_doubled(phrase: Sequence[str]) -> bool:
    """Return whether the word can be repeated: "more and more", "on and on"."""
    word, *others = phrase
    known = tags().get(word)
    is_comparative = known is None and word.endswith("er")  # funkier and funkier
    return not others and (word in _DOUBLED or known in _DOUBLED_TAGS or is_comparative)


@functools.cache
def valences() -> Mapping[str, float]:
    """Return how good (1) or bad (-1) each word sounds; VADER takes precedence over TextBlob."""
    from textblob.en import sentiment
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    sentiment.load()
    found = {word: float(parts[None][0]) for word, parts in sentiment.items() if None in parts}
    for word, valence in SentimentIntensityAnalyzer().lexicon.items():
        found[word] = float(valence) / _VADER_SCALE
    return {word: valence for word, valence in found.items() if abs(valence) >= _LEAST_VALENCE}


@functools.lru_cache(2**17)
def valence(word: str) -> float:
    """Return how good or bad a word sounds, from -1 to 1; 0 if neither lexicon has it."""
    return valences().get(word, 0.0)


@functools.lru_cache(2**16)
def singular(word: str) -> str:
    """Return the singular of a lowercase noun; return other words unchanged."""
    ends_so = word.endswith("s") and not word.endswith(_KEEPS_ITS_S)
    if len(word) < 4 or not ends_so or word in _KEEP_THEIR_S:
        return word
    from textblob.en.inflect import singularize

    found, without_s = str(singularize(word)), word.removesuffix("s")
    # If the rules produce an unknown word, but dropping the s gives a known one, use the latter.
    return without_s if found not in tags() and without_s in tags() else found
