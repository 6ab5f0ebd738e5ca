"""Splits text in any language into words and sentences, by the rules of Unicode (UAX 29).

Words are those of UAX 29. In Chinese, Japanese, and Thai, which have no spaces, each character is a
word, except for runs of Katakana. Sentence ends are those of UAX 29 that have a mark, with these
exceptions. A period after a single letter, a number below 100, or a title does not end a sentence:
"z. B.", "J. R. R. Tolkien", "3. Mai", "Dr. Pepper". A period before a number does ("It is calm. 16
of 30 say so."), unless the word is usually an abbreviation there: "approx. 16 euros". An ellipsis
counts as a period.
"""

import re

import regex

_WORD = regex.compile(r"[\p{L}\p{N}\p{Co}]")  # a piece with one of these is a word
_PIECE = regex.compile(r"(?V1w).+?\b", regex.DOTALL)
# Two of these make a flag. They are not part of words, and `regex` handles long runs slowly.
_REGIONAL = re.compile("[\U0001f1e6-\U0001f1ff]")
_MARKS = regex.compile(
    r"(?P<marks>[\p{SB=STerm}\p{SB=ATerm}\u2026]+)"
    r"(?:[\p{Pe}\p{Pf}\"']|\u201c(?=\s|$))*"  # closes German quotes, but opens others
)
_STRONG = regex.compile(r"\p{SB=STerm}")
_GOES_ON_AT_ONCE = regex.compile(r"[\p{SB=Numeric}\p{SB=Upper}\p{SB=Lower}]")
_BETWEEN = (
    r"[^\p{SB=OLetter}\p{SB=Upper}\p{SB=Lower}\p{SB=Numeric}\p{SB=Sep}\p{SB=CR}\p{SB=LF}"
    r"\p{SB=STerm}\p{SB=ATerm}\u2026]*"
)
_GOES_ON_LATER = regex.compile(_BETWEEN + r"\p{SB=Lower}")
_NUMBER_LATER = regex.compile(_BETWEEN + r"\p{SB=Numeric}")
_CONTINUES = regex.compile(r"\p{SB=Sp}*\p{SB=SContinue}")
# Both match backwards from the period, so that the text before the word is not scanned.
_SHORTENED = regex.compile(
    r"(?r)(?<![\p{L}\p{M}\p{N}\u2019'])(?:\p{L}\p{M}*|Dr|Mr|Mrs|Ms|Prof|St|Nr|No|bzw|ca|vs)"
    r"|(?<![\p{L}\p{M}\p{N}.,])\p{N}{1,2}"
)
_SHORTENED_BEFORE_NUMBERS = regex.compile(
    r"(?r)(?<![\p{L}\p{M}\p{N}\u2019'])(?:(?i:approx|appr|aprox|abt|est|incl|excl|inkl|exkl|zzgl|"
    r"vgl|evtl|max|m[i\u00ed]n|nos|n[u\u00fa]m|vols?|pp|pgs?|p[a\u00e1]g|chap|ext|t[e\u00e9]l|op|"
    r"apt|ste|ave|blvd|rte|hwy)|Figs?|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)"
)


def words(text: str) -> list[str]:
    """Return the words of `text`, in order, without the characters between them."""
    return [text[start:end] for start, end in word_spans(text)]


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return where the words of `text` start and end, in order."""
    pieces = _PIECE.finditer(_REGIONAL.sub(" ", text))
    return [piece.span() for piece in pieces if _WORD.search(piece[0])]


def sentence_ends(text: str) -> list[int]:
    """Return where the sentences of `text` end, after their marks, closing quotes, and brackets.

    If the last sentence has no mark, its end is left out.
    """
    return [
        match.end()
        for match in _MARKS.finditer(text)
        if _ends_sentence(text, match.start(), match.end(), match["marks"])
    ]


def _ends_sentence(text: str, start: int, end: int, marks: str) -> bool:
    if _CONTINUES.match(text, end):
        return False
    if _STRONG.search(marks):
        return True
    if len(marks) == 1 and _is_shortened(text, start, end):
        return False
    return not (_GOES_ON_AT_ONCE.match(text, end) or _GOES_ON_LATER.match(text, end))


def _is_shortened(text: str, start: int, end: int) -> bool:
    """Return whether the word before a period is probably an abbreviation."""
    if _SHORTENED.match(text, endpos=start):
        return True
    is_before_number = _NUMBER_LATER.match(text, end) is not None
    return is_before_number and _SHORTENED_BEFORE_NUMBERS.match(text, endpos=start) is not None
