"""What the training reviews of an item say: its menu of aspects, and the words of their praise.

A menu leaves out the aspects that at least as many reviews of the item blame as praise; low-rated
reviews count.

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

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xrec.data.dataset import Dataset
from xrec.data.english import PRAISE_OF_ANYTHING, tags, word_set

_MOST_WORDS = 5
_SAY_LITTLE = PRAISE_OF_ANYTHING | word_set(
    "is are was it's sounds sound looks look feels feel works work fits fit plays play"
)
_SAYING_LITTLE = word_set("RB DT CC IN TO PRP PRP$")  # tags
_SAME_BEGINNING = 3  # letters of words that are forms of one: ease and easy


class Menus:
    """The menus of a dataset's items; all are empty if the dataset has no aspects."""

    def __init__(self, dataset: Dataset):
        self._aspects, self._of_items = dataset.aspects, dataset.item_aspects
        self._low_rated = dataset.low_rated_aspects
        self._found: dict[int, frozenset[str]] = {}

    @cached_property
    def names(self) -> list[str]:
        """The names of all aspects, by their index."""
        return [] if self._aspects is None else self._aspects["aspect"].to_pylist()

    def of(self, item_index: int) -> frozenset[str]:
        """The names of the aspects on an item's menu."""
        if self._of_items is None:
            return frozenset()
        if item_index not in self._found:
            rows = self._rows_of(item_index)
            aspects = self._columns["aspect_index"][rows][~self._is_blamed[rows]]
            self._found[item_index] = frozenset(self.names[index] for index in aspects)
        return self._found[item_index]

    def _rows_of(self, item_index: int) -> slice:
        """Where an item's rows are: `item_aspects` is sorted by item."""
        items = self._columns["item_index"]
        return slice(*np.searchsorted(items, [item_index, item_index + 1]))

    @cached_property
    def _is_blamed(self) -> NDArray[np.bool_]:
        margins = self._columns["num_positive"] - self._columns["num_negative"]
        is_blamed = self._columns["num_negative"] > 0
        if self._low_rated is not None:
            keys, others = _keys(self._columns), _arrays(self._low_rated)
            places = np.searchsorted(keys, _keys(others)).clip(max=len(keys) - 1)
            there = keys[places] == _keys(others)
            margins[places[there]] += (others["num_positive"] - others["num_negative"])[there]
            is_blamed[places[there]] |= others["num_negative"][there] > 0
        return np.asarray(is_blamed & (margins <= 0))

    @cached_property
    def _columns(self) -> dict[str, NDArray[np.int32]]:
        assert self._of_items is not None
        return _arrays(self._of_items)


def _arrays(counts: pa.Table) -> dict[str, NDArray[np.int32]]:
    names = ("item_index", "aspect_index", "num_positive", "num_negative")
    return {name: counts[name].to_numpy() for name in names}


def _keys(columns: Mapping[str, NDArray[np.int32]]) -> NDArray[np.int64]:
    """One number for the item and the aspect of each row, in the order of the rows."""
    return (columns["item_index"].astype(np.int64) << 32) + columns["aspect_index"]


class Opinions:
    """The opinions of a dataset's training reviews; none if it has no aspects of reviews."""

    def __init__(self, dataset: Dataset):
        self._table = dataset.explanation_aspects if dataset.aspects_from == "reviews" else None
        self._aspects = dataset.aspects

    def of(self, item_index: int, aspect_index: int, without_user: int | None = None) -> str:
        """The words that say most of an aspect of an item, or "".

        What user `without_user` wrote is left out of the item's reviews.
        """
        said = self._said.get((item_index, aspect_index), {})
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
        praise = (pc.field("split") == "train") & (pc.field("sentiment") == "positive")
        columns = ["user_index", "item_index", "aspect_index", "opinion"]
        rows = self._table.filter(praise).select(columns).to_pydict().values()
        for user, item, aspect, opinion in zip(*rows, strict=True):
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
    return len(words) <= _MOST_WORDS and any(
        word not in _SAY_LITTLE
        and tags().get(word) not in _SAYING_LITTLE
        and word[:_SAME_BEGINNING] not in of_aspect
        for word in words
    )
