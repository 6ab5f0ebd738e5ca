"""Opinions: the words in which an item's training reviews praise an aspect.

A count says that reviewers praise the build of a stand; "built like a tank" says why. Of all that
is said of an aspect of an item, the words are taken that most reviews of the item share and fewest
reviews of the aspect at large, so that they are the item's own:

    count of the words in the item's reviews x ln(reviews that praise the aspect / those by them)

What says no more than that something is good ("great", "sounds good" of the sound) is left out.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import cached_property

import pyarrow.compute as pc

from xrec.data.dataset import Dataset
from xrec.data.english import word_set

_MOST_WORDS = 5
_SAY_LITTLE = word_set(
    "good great nice fine excellent amazing awesome perfect perfectly fantastic wonderful lovely "
    "superb terrific outstanding incredible best better well nicely wonderfully amazingly cool "
    "decent okay very really so just pretty quite too extremely absolutely truly a an the and of "
    "to in for it its is are was it's "
    "sounds sound looks look feels feel works work fits fit plays play"
)
_SAME_BEGINNING = 3  # letters of words that are forms of one: ease and easy


class Opinions:
    """The opinions of a dataset's training reviews; none if it has no aspects of reviews."""

    def __init__(self, dataset: Dataset):
        self._table = dataset.explanation_aspects if dataset.aspects_from == "reviews" else None
        self._aspects = dataset.aspects

    def of(self, item_index: int, aspect_index: int, without_user: int | None = None) -> str:
        """The words that say most of an aspect of an item, or "".

        What user `without_user` wrote is left out of the item's reviews.
        """
        said = self._said.get((item_index, aspect_index))
        if said is None:
            return ""
        counts = Counter(words for user, words in said.items() if user != without_user)
        return min(
            counts,
            key=lambda words: (-counts[words] * self._rarity(aspect_index, words), words),
            default="",
        )

    def _rarity(self, aspect_index: int, words: str) -> float:
        """How few of the reviews that praise an aspect do so by these words, in nats."""
        of_aspect = self._of_aspects[aspect_index]
        return math.log((1 + of_aspect.total()) / of_aspect[words])

    @cached_property
    def _said(self) -> Mapping[tuple[int, int], Mapping[int, str]]:
        """What each user says of an aspect of an item, by the two."""
        said: defaultdict[tuple[int, int], dict[int, str]] = defaultdict(dict)
        if self._table is None or self._aspects is None:
            return said
        names = self._aspects["aspect"].to_pylist()
        praise = self._table.filter(
            pc.and_(
                pc.equal(self._table["split"], "train"),
                pc.equal(self._table["sentiment"], "positive"),
            )
        )
        columns = ("user_index", "item_index", "aspect_index", "opinion")
        for user, item, aspect, opinion in zip(
            *(praise[name].to_pylist() for name in columns), strict=True
        ):
            words = " ".join(opinion.split())
            if _says_more_than(names[aspect], words):
                said[item, aspect][user] = words
        return said

    @cached_property
    def _of_aspects(self) -> Mapping[int, Counter[str]]:
        """How often each aspect is praised by which words, over all items."""
        counts: defaultdict[int, Counter[str]] = defaultdict(Counter)
        for (_, aspect), said in self._said.items():
            counts[aspect].update(said.values())
        return counts


def _says_more_than(aspect: str, opinion: str) -> bool:
    """Whether an opinion is short, and says more than that the aspect is good."""
    words = opinion.casefold().split()
    of_aspect = [word[:_SAME_BEGINNING] for word in aspect.casefold().split()]
    told = [
        word
        for word in words
        if word not in _SAY_LITTLE and word[:_SAME_BEGINNING] not in of_aspect
    ]
    return bool(told) and len(words) <= _MOST_WORDS
