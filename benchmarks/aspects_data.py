"""Reviews as who mentions which aspects of what, divided into training, validation and test.

A word of the vocabulary is an aspect; each user's last review is for the test, the last but one for
validation, and all others are for training.
"""

import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xrec.errors import DataError

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

_WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*")
_COLUMNS = ("user_id", "item_id", "review", "time")


@dataclass(frozen=True, eq=False)
class Reviews:
    """R reviews: users (R,), items (R,) int64; mentions (R, A) float32, 1 where one mentions it."""

    users: Indices
    items: Indices
    mentions: Floats

    def __len__(self) -> int:
        return len(self.users)

    def rows(self, chosen: NDArray[np.bool_] | Indices) -> "Reviews":
        """Return the chosen reviews."""
        return Reviews(self.users[chosen], self.items[chosen], self.mentions[chosen])


@dataclass(frozen=True, eq=False)
class Split:
    """The reviews of each split; U users, I items, A aspects.

    Those of validation and test that mention no aspect are left out, and so are those of users
    without a training review.
    """

    train: Reviews
    validation: Reviews
    test: Reviews
    num_users: int
    num_items: int
    aspects: tuple[str, ...]

    @classmethod
    def by_time(cls, reviews: Reviews, aspects: Sequence[str]) -> "Split":
        """Divide `reviews`, which are in the order of time, and leave out what cannot be scored.

        Raises DataError if a split has no review.
        """
        age = _reviews_after(reviews.users)
        train = reviews.rows(age >= 2)
        validation, test = (
            each.rows(np.isin(each.users, train.users) & each.mentions.any(axis=1))
            for each in (reviews.rows(age == 1), reviews.rows(age == 0))
        )
        if not min(len(train), len(validation), len(test)):
            raise DataError(
                f"{len(train)}, {len(validation)} and {len(test)} reviews to train, choose and "
                "test on; expected users with three reviews or more that mention an aspect",
                code="too_few_reviews",
            )
        num_users, num_items = int(reviews.users.max()) + 1, int(reviews.items.max()) + 1
        return cls(train, validation, test, num_users, num_items, tuple(aspects))


def read_reviews(path: Path, aspects: Sequence[str]) -> Reviews:
    """Read reviews, one JSON object a line, gzipped, in the order of time.

    Users and items are numbered in the order in which they come. Raises DataError for a line
    without one of the columns, or out of order.
    """
    numbers = {word: number for number, word in enumerate(aspects)}
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    pairs, places, last = [], [], float("-inf")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line, row in enumerate(map(json.loads, lines), start=1):
            missing = [name for name in _COLUMNS if name not in row]
            if missing or row["time"] < last:
                wrong = f"without {', '.join(missing)}" if missing else "earlier than the one above"
                raise DataError(
                    f"{path}, line {line}: a review {wrong}; expected {', '.join(_COLUMNS)}, "
                    "sorted by time",
                    code="missing_column" if missing else "not_sorted",
                    key=missing[0] if missing else "time",
                    saw=line,
                )
            last = row["time"]
            pairs.append(
                (
                    users.setdefault(row["user_id"], len(users)),
                    items.setdefault(row["item_id"], len(items)),
                )
            )
            words = set(_WORD.findall(row["review"].lower()))
            places += [(line - 1, numbers[word]) for word in words & numbers.keys()]
    mentions = np.zeros((len(pairs), len(aspects)), dtype=np.float32)
    if places:
        mentions[tuple(np.array(places).T)] = 1
    by_row = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return Reviews(by_row[:, 0], by_row[:, 1], mentions)


def _reviews_after(users: Indices) -> Indices:
    """Return how many later reviews the user of each review has: (R,)."""
    backwards = users[::-1]
    order = np.argsort(backwards, kind="stable")
    ordered = backwards[order]
    starts = np.searchsorted(ordered, ordered)
    after = np.empty(len(users), dtype=np.int64)
    after[order] = np.arange(len(users)) - starts
    return after[::-1]
