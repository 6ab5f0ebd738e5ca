"""Words and ends of sentences in any language, by the rules of Unicode (UAX 29).

Words are those of UAX 29. In Chinese, Japanese and Thai, which have no spaces, each character is a
word, except for runs of Katakana. The ends of sentences are those of UAX 29 that have a mark, with
two exceptions. A point after a single letter, a number below 100 or a title ends none: "z. B.",
"J. R. R. Tolkien", "3. Mai", "Dr. Pepper". An ellipsis counts as a point.
"""

import regex

_WORD = regex.compile(r"[\p{L}\p{N}\p{Co}]")  # what a piece must have to be a word
_BOUNDARY = regex.compile(r"(?V1w)\b")
_MARKS = regex.compile(
    r"(?P<marks>[\p{SB=STerm}\p{SB=ATerm}\u2026]+)"
    r"(?:[\p{Pe}\p{Pf}\"']|\u201c(?=\s|$))*"  # German quotes end with the mark that opens others
)
_STRONG = regex.compile(r"\p{SB=STerm}")
_GOES_ON_AT_ONCE = regex.compile(r"[\p{SB=Numeric}\p{SB=Upper}\p{SB=Lower}]")
_GOES_ON_LATER = regex.compile(
    r"[^\p{SB=OLetter}\p{SB=Upper}\p{SB=Lower}\p{SB=Sep}\p{SB=CR}\p{SB=LF}"
    r"\p{SB=STerm}\p{SB=ATerm}]*\p{SB=Lower}"
)
_CONTINUES = regex.compile(r"\p{SB=Sp}*\p{SB=SContinue}")
_SHORTENED = regex.compile(
    r"(?<![\p{L}\p{M}\p{N}\u2019'])(?:\p{L}\p{M}*|Dr|Mr|Mrs|Ms|Prof|St|Nr|No|bzw|ca|vs)$"
    r"|(?<![\p{L}\p{M}\p{N}.,])\p{N}{1,2}$"
)


def words(text: str) -> list[str]:
    """The words of `text`, in order, without what is between them."""
    return [piece for piece in _BOUNDARY.split(text) if _WORD.search(piece)]


def sentence_ends(text: str) -> list[int]:
    """Where the sentences of `text` end, after their marks and closing quotes and brackets.

    A last sentence without a mark has no end.
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
    if len(marks) == 1 and _SHORTENED.search(text, endpos=start):
        return False
    return not (_GOES_ON_AT_ONCE.match(text, end) or _GOES_ON_LATER.match(text, end))
