"""The placeholder for the item's title in the texts that the model learns and writes.

The model writes the same few tokens for every item, so it can neither misspell a title nor use
another item's. The prompt still shows the title.
"""

import re
from collections.abc import Sequence

from xrec.data.language import Span

_SENTENCE_START = re.compile(r"(?:^|[.!?\u2026][\"'\u201d\u2019)\]]*\s+)[\"'\u201c\u2018(]*$")
_ARTICLE = re.compile(r"\b(?:the|an?)\s+$", re.IGNORECASE)
_DETERMINER = re.compile(r"\b(?:the|an?|this|your|their|its)\s+$", re.IGNORECASE)
_BEGINS_WITH_ARTICLE = re.compile(r"(?:the|an?)\s", re.IGNORECASE)
_POINTS = re.compile(r"(?:this|these)\s")  # a lowercase phrase, not a name: "this film"

TITLE = "[title]"
_WHOLE = re.compile(r"\[\s*title\s*\]", re.IGNORECASE)
_PART = re.compile(
    r"\[\s*(?:(?:titl|tit|ti|t)(?!\w)|title|$)|(?<!\w)(?:title|itle|tle|le|e)\s*\]", re.IGNORECASE
)
_FIELD = re.compile(r"\[\s*\w+(?:[ _-]\w+)?\s*\]")


class TitlePlaceholder:
    """Replaces titles by placeholders, and placeholders by titles.

    `untitled` replaces an empty title.
    """

    def __init__(self, untitled: str):
        self._untitled = untitled

    def hide(self, text: str, spans: Sequence[Span]) -> str:
        """Return `text` with each of `spans` (ordered, disjoint) replaced by the placeholder."""
        parts, end = [], 0
        for start, stop in spans:
            parts += [text[end:start], TITLE]
            end = stop
        return "".join([*parts, text[end:]])

    def fill(self, text: str, title: str) -> str:
        """Return `text` with the title in place of the placeholder.

        A period after a title that ends with one is dropped. So is an English article before a
        title that begins with one, and any determiner before `untitled` or a title such as "this
        film": "the [title]" becomes "The Fox" or "this item", "your [title]" becomes "this item".
        """
        title = title.strip()
        left_out = self._left_out_before(title)
        filled, end = "", 0
        for match in _WHOLE.finditer(text):
            filled += text[end : match.start()]
            if left_out is not None:
                filled = left_out.sub("", filled)
            filled += self._said(title, filled)
            end = match.end()
            if filled.endswith(".") and text.startswith(".", end):
                end += 1
        return filled + text[end:]

    def made_up_in(self, text: str, *known: str) -> str | None:
        """Return the first bracketed word or two of `text` that no `known` text has, or None.

        A model that learned to write "[title]" may write "[category]", which nothing fills in.
        """
        for match in _FIELD.finditer(text):
            field = match.group()
            if not _WHOLE.fullmatch(field) and not any(field in each for each in known):
                return field
        return None

    def is_in(self, text: str) -> bool:
        """Return whether `text` contains the placeholder."""
        return _WHOLE.search(text) is not None

    def is_broken_in(self, text: str) -> bool:
        """Return whether `text` contains a fragment of the placeholder."""
        return _PART.search(_WHOLE.sub("\ue000", text)) is not None

    def may_replace_end_of(self, text: str, title: str) -> bool:
        """Return whether a placeholder after an unfinished text would remove its last word."""
        left_out = self._left_out_before(title.strip())
        return left_out is not None and left_out.search(f"{text} ") is not None

    def _left_out_before(self, title: str) -> re.Pattern[str] | None:
        """Return what is dropped right before the placeholder; None if nothing is."""
        if not title or _POINTS.match(title):
            return _DETERMINER
        return _ARTICLE if _BEGINS_WITH_ARTICLE.match(title) else None

    def _said(self, title: str, before: str) -> str:
        """Return the title or its replacement, which is capitalized at the start of a sentence."""
        if title and not _POINTS.match(title):
            return title
        phrase = title or self._untitled
        return phrase[:1].upper() + phrase[1:] if _SENTENCE_START.search(before) else phrase
