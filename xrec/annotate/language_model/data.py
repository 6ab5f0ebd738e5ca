"""Rows as the JSON that a prompt shows, cut to a number of tokens.

Markup of chat templates is taken apart. Our engines never take a text's words for special tokens,
but some endpoints do.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from xrec.annotate.rows import (
    Input,
    ItemInput,
    ItemText,
    PairInput,
    Review,
    ReviewedItem,
    UserInput,
)

CountTokens = Callable[[str], int]

_MARKUP = re.compile(
    r"<\|[^<>|]{1,40}\|>|</?(?:s|think|start_of_turn|end_of_turn|bos|eos)>|\[/?INST\]|<</?SYS>>",
    re.IGNORECASE,
)
_LEAST_TOKENS = 24
"""A review that would be cut to less is left out."""
_DETAILS_SHARE = 0.25
_ABOUT_SHARE = 0.1


@dataclass(frozen=True)
class RowData:
    """Makes the JSON of rows; all texts of one together have at most `max_tokens` tokens."""

    max_tokens: int
    count: CountTokens

    def of(self, row: Input) -> dict[str, Any]:
        """The data of a row of any kind."""
        match row:
            case ItemInput():
                return self.item(row)
            case UserInput():
                return self.user(row)
            case PairInput():
                return self.pair(row)

    def item(self, row: ItemInput) -> dict[str, Any]:
        """Title, details, and as many reviews as there is room for."""
        details = self.cut(row.details, int(self.max_tokens * _DETAILS_SHARE))
        left = self.max_tokens - self.count(details)
        reviews = self._reviews([(review, {}) for review in row.reviews], left)
        return {"title": _plain(row.title), "details": details, "reviews": reviews}

    def user(self, row: UserInput) -> dict[str, Any]:
        """As many reviews as there is room for, each with its item."""
        reviewed = [(each.review, self._item(each)) for each in row.reviews]
        return {"reviews": self._reviews(reviewed, self.max_tokens)}

    def pair(self, row: PairInput) -> dict[str, Any]:
        """The item, and the pair's own review."""
        about = self._about(row.item, _DETAILS_SHARE)
        left = self.max_tokens - sum(map(self.count, about.values()))
        text = self.cut(_joined(row.review), left)
        return {**about, "review": text}

    def cut(self, text: str, max_tokens: int) -> str:
        """The text, or as many of its first words as have at most `max_tokens` tokens."""
        text = _plain(text)
        while text and (count := self.count(text)) > max_tokens:
            share = max_tokens / count if count > max_tokens + 1 else 0.0
            shorter = text[: min(len(text) - 1, int(len(text) * share))]
            text = shorter.rpartition(" ")[0] if " " in shorter else ""
        return text

    def _reviews(
        self, reviews: Sequence[tuple[Review, dict[str, str]]], max_tokens: int
    ) -> list[dict[str, Any]]:
        """The first reviews, the last of them cut, within the number of tokens."""
        shown: list[dict[str, Any]] = []
        left = max_tokens
        for review, more in reviews:
            left -= sum(map(self.count, more.values()))
            if left < _LEAST_TOKENS:
                break
            text = self.cut(_joined(review), left)
            left -= self.count(text)
            rating = {} if review.rating is None else {"rating": review.rating}
            shown.append({**more, **rating, "review": text})
        return shown

    def _item(self, reviewed: ReviewedItem) -> dict[str, str]:
        return self._about(reviewed.item, _ABOUT_SHARE)

    def _about(self, item: ItemText | None, share: float) -> dict[str, str]:
        if item is None:
            return {"item": "", "about": ""}
        about = self.cut(item.profile, int(self.max_tokens * share))
        return {"item": _plain(item.title), "about": about}


def _joined(review: Review) -> str:
    """The heading and the review."""
    heading = review.summary.strip()
    return f"{heading}: {review.review}" if heading and review.review else heading or review.review


def _plain(text: str) -> str:
    """The text without what a chat template might take for its own."""
    return _MARKUP.sub(lambda match: re.sub(r"[<>|\[\]]", " ", match[0]), text).strip()
