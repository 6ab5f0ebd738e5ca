"""Split texts into words, normalized for comparison: case-folded, singular, without a possessive.

Numbers are compared as digits, whether they are written in digits or in English words.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from xrec.data.language import Span, composed, likeliest_language, singular, word_spans

_BETWEEN = re.compile(r"[\s\-\u2010\u2011/'\u2019]*")  # what may separate the words of a phrase
_AND = re.compile("&")
_DIGITS = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class Tokens:
    """The words of `text` (in NFC) and the keys they are compared by; "&" is the word "and"."""

    text: str
    spans: Sequence[Span]
    keys: Sequence[str]

    def __len__(self) -> int:
        return len(self.spans)

    def word(self, index: int) -> str:
        """Return the word at `index` as it is written."""
        start, end = self.spans[index]
        return self.text[start:end]

    def gap(self, index: int) -> str:
        """Return the characters between the word at `index` and the one before it."""
        before = self.spans[index - 1][1] if index else 0
        return self.text[before : self.spans[index][0]]

    def are_joined(self, start: int, stop: int) -> bool:
        """Return whether only spaces, hyphens, slashes and apostrophes separate these words."""
        return all(_BETWEEN.fullmatch(self.gap(index)) for index in range(start + 1, stop))

    @cached_property
    def is_english(self) -> bool:
        """Whether English is the likeliest language of the text, with or without names."""
        plain = (
            word
            for index in range(len(self))
            if (word := self.word(index))[0].islower() or (not index and word[0].isalpha())
        )
        return "en" in map(likeliest_language, (self.text, " ".join(plain)))


def tokens_of(text: str) -> Tokens:
    """Split a text into words."""
    text = composed(text)
    spans = word_spans(text)
    if "&" in text:
        spans = sorted([*spans, *(match.span() for match in _AND.finditer(text))])
    return Tokens(text, spans, [word_key(text[start:end]) for start, end in spans])


@lru_cache(2**16)
def word_key(word: str) -> str:
    """Return the key a word is compared by: the same for "Guests", "guest's" and "guest"."""
    if word == "&":
        return "and"
    return singular(word.casefold().replace("\u2019", "'").removesuffix("'s"))


_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_UNITS = {word: value for value, word in enumerate(_SMALL.split())}
_UNITS |= {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}
_FACTORS = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_PRONOUNS = {"zero", "one"}  # "one" is mostly a pronoun
_MAX_NUMBER_WORDS = 20  # "nine hundred ninety-nine billion, ..." down to the ones has 19


def digits_in(word: str) -> list[str]:
    """Return the numbers written in digits in a word: 1200 for "1,200", and 5 for "5th"."""
    numbers = (match[0].replace(",", "") for match in _DIGITS.finditer(word))
    return [_decimal(digits) if digits.isdecimal() else digits for digits in numbers]


def _decimal(digits: str) -> str:
    """Return the digits in ASCII without leading zeros; `int` refuses more than 4,300 of them."""
    return "".join(str(int(digit)) for digit in digits).lstrip("0") or "0"


def number_words(tokens: Tokens) -> Iterator[tuple[int, int, str]]:
    """Yield the start and stop (as word positions) and the digits of each number in words.

    "twenty-five" is one number. "one" or "zero" alone is not a number.
    """
    start = 0
    while start < len(tokens):
        stop = start
        most = min(len(tokens), start + _MAX_NUMBER_WORDS)
        while stop < most and _continues(tokens, start, stop):
            stop += 1
        if stop > start and not _PRONOUNS.issuperset(tokens.keys[start:stop]):
            yield start, stop, str(_value(tokens.keys[start:stop]))
        start = max(stop, start + 1)


def _continues(tokens: Tokens, start: int, index: int) -> bool:
    """Return whether the number that starts at `start` continues at `index`."""
    word = tokens.keys[index]
    if index == start or not (word in _UNITS or word in _FACTORS):
        return word in _UNITS or word in _FACTORS
    before = tokens.keys[index - 1]
    joins = word in _FACTORS or before in _FACTORS or (_UNITS[before] >= 20 and _UNITS[word] < 10)
    return joins and tokens.are_joined(index - 1, index + 1)


def numbers_of(tokens: Tokens) -> set[str]:
    """Return all numbers in a text as digits, including those in words."""
    in_words = {number for _, _, number in number_words(tokens)}
    return in_words.union(*(digits_in(tokens.word(index)) for index in range(len(tokens))))


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
