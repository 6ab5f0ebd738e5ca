"""Numbers in texts, in digits and in English words from two on; "one" is mostly a pronoun."""

import re
from collections.abc import Iterator, Sequence

from xrec.checks.tokens import Tokens

_DIGITS = re.compile(r"\d+(?:[.,]\d+)*")
_SMALL = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_UNITS = {
    **{word: value for value, word in enumerate(_SMALL)},
    **{word: value for value, word in enumerate(_TENS, start=2)},
}
_UNITS |= {word: 10 * _UNITS[word] for word in _TENS}
_FACTORS = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_NUMBER_WORDS = {*_UNITS, *_FACTORS}
_PRONOUNS = {"zero", "one"}


def digits_in(word: str) -> list[str]:
    """The numbers in the digits of a word, as 1200 for "1,200" and 5 for "5th"."""
    return [_plain(match[0]) for match in _DIGITS.finditer(word)]


def number_words(tokens: Tokens) -> Iterator[tuple[int, int, str]]:
    """Yield where a number in words starts and stops, in words of the text, and its digits.

    "twenty-five" is one number. A lone "one" or "zero" is none.
    """
    start = 0
    while start < len(tokens):
        stop = start
        while stop < len(tokens) and _goes_on(tokens, start, stop):
            stop += 1
        if stop > start and not set(tokens.keys[start:stop]) <= _PRONOUNS:
            yield start, stop, str(_value(tokens.keys[start:stop]))
        start = max(stop, start + 1)


def _goes_on(tokens: Tokens, start: int, place: int) -> bool:
    """Whether the number that starts at `start` has a further word at `place`."""
    word = tokens.keys[place]
    if word not in _NUMBER_WORDS or place == start:
        return word in _NUMBER_WORDS
    before = tokens.keys[place - 1]
    if not tokens.are_joined(place - 1, place + 1):
        return False
    return word in _FACTORS or before in _FACTORS or (before in _TENS and _UNITS[word] < 10)


def numbers_of(tokens: Tokens) -> set[str]:
    """All numbers of a text, those in words too, as digits."""
    found = {number for _, _, number in number_words(tokens)}
    return found.union(*(digits_in(tokens.word(place)) for place in range(len(tokens))))


def _plain(digits: str) -> str:
    whole = digits.replace(",", "")
    return str(int(whole)) if whole.isdecimal() else whole


def _value(words: Sequence[str]) -> int:
    total, group = 0, 0
    for word in words:
        if word in _UNITS:
            group += _UNITS[word]
        elif _FACTORS[word] < 1000:
            group = (group or 1) * _FACTORS[word]
        else:
            total, group = total + (group or 1) * _FACTORS[word], 0
    return total + group
