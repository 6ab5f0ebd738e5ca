"""The place-holder that stands for the item's title in what the model learns and writes.

The model writes the same few tokens for every item, so it cannot misspell a title or take another
item's. The prompt still shows the title.
"""

import re
from collections.abc import Sequence

from xrec.data.language import Span

_SENTENCE_START = re.compile(r"(?:^|[.!?\u2026][\"'\u201d\u2019)\]]*\s+)[\"'\u201c\u2018(]*$")
_ARTICLE = re.compile(r"\b(?:the|an?)\s+$", re.IGNORECASE)
_DETERMINER = re.compile(r"\b(?:the|an?|this|your|their|its)\s+$", re.IGNORECASE)
_BEGINS_WITH_ARTICLE = re.compile(r"(?:the|an?)\s", re.IGNORECASE)
_POINTS = re.compile(r"(?:this|these)\s")  # a title in small letters that is none: "this film"

TITLE = "[title]"
_WHOLE = re.compile(r"\[\s*title\s*\]", re.IGNORECASE)
_PART = re.compile(
    r"\[\s*(?:(?:titl|tit|ti|t)(?!\w)|title|$)|(?<!\w)(?:title|itle|tle|le|e)\s*\]", re.IGNORECASE
)
_FIELD = re.compile(r"\[\s*\w+(?:[ _-]\w+)?\s*\]")


class TitlePlaceholder:
    """Puts place-holders into texts and titles in their place.

    `untitled` stands for an empty title.
    """

    def __init__(self, untitled: str):
        self._untitled = untitled

    def hide(self, text: str, spans: Sequence[Span]) -> str:
        """`text` with the place-holder at each of `spans`, which are in order and apart."""
        parts, end = [], 0
        for start, stop in spans:
            parts += [text[end:start], TITLE]
            end = stop
        return "".join([*parts, text[end:]])

    def fill(self, text: str, title: str) -> str:
        """`text` with the title in place of the place-holder.

        If the title ends with a full stop, a full stop that follows is left out. An English article
        is left out before a title that begins with one, and before what stands for an empty title:
        "the [title]" is "The Fox" or "this item", and "your [title]" is "this item". A title such
        as "this film" is treated like what stands for an empty one.
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
        """The first word or two of `text` in brackets that no `known` text has so, or None.

        A model that learned to write "[title]" may write "[category]", which nothing fills in.
        """
        for match in _FIELD.finditer(text):
            field = match.group()
            if not _WHOLE.fullmatch(field) and not any(field in each for each in known):
                return field
        return None

    def is_in(self, text: str) -> bool:
        """Whether the place-holder stands in `text`."""
        return _WHOLE.search(text) is not None

    def is_broken_in(self, text: str) -> bool:
        """Whether a part of the place-holder stands in `text` beside whole ones."""
        return _PART.search(_WHOLE.sub("\ue000", text)) is not None

    def may_replace_end_of(self, text: str, title: str) -> bool:
        """Whether the end of an unfinished text goes if a place-holder follows."""
        left_out = self._left_out_before(title.strip())
        return left_out is not None and left_out.search(f"{text} ") is not None

    def _left_out_before(self, title: str) -> re.Pattern[str] | None:
        """What goes where it stands right before the place-holder; None if nothing does."""
        if not title or _POINTS.match(title):
            return _DETERMINER
        return _ARTICLE if _BEGINS_WITH_ARTICLE.match(title) else None

    def _said(self, title: str, before: str) -> str:
        """The title, or what stands for none; that has a capital where `before` ends a sentence."""
        if title and not _POINTS.match(title):
            return title
        said = title or self._untitled
        return said[:1].upper() + said[1:] if _SENTENCE_START.search(before) else said
