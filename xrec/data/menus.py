"""What the training reviews of an item say: its menu of aspects, and the words of their praise.

A menu leaves out the aspects that at least as many reviews of the item blame as praise; low-rated
reviews count.

A count says that reviewers praise the build of a stand; "built like a tank" says why. Of all that
is said of an aspect of an item, the words are taken that most reviews of the item share and fewest
reviews of the aspect at large, so that they are the item's own:

    count of the words in the item's reviews x ln(reviews that praise the aspect / those by them)

What says no more than that something is good ("great", "sounds good" of the sound) is left out.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xrec.data.dataset import Dataset
from xrec.data.english import PRAISE_OF_ANYTHING, tags, word_set
from xrec.storage import Arrays, mapped_arrays

_MOST_WORDS = 5
_SAY_LITTLE = PRAISE_OF_ANYTHING | word_set(
    "is are was it's sounds sound looks look feels feel works work fits fit plays play"
)
_SAYING_LITTLE = word_set("RB DT CC IN TO PRP PRP$")  # tags
_RULES = 1  # version of all that menus and opinions are made by, in the names of their files
_SAME_BEGINNING = 3  # letters of words that are forms of one: ease and easy


class Menus:
    """The menus of a dataset's items; all are empty if the dataset has no aspects."""

    def __init__(self, dataset: Dataset):
        self.names: list[str] = []
        self._starts = self._aspects = np.zeros(0, dtype=np.int64)
        if dataset.aspects is not None:
            self.names = dataset.aspects["aspect"].to_pylist()
            arrays = _kept(dataset, "menus", lambda: _menu_arrays(dataset))
            self._starts, self._aspects = arrays["starts"], arrays["aspects"]

    def of(self, item_index: int) -> frozenset[str]:
        """The names of the aspects on an item's menu."""
        starts = self._starts[item_index : item_index + 2]  # fewer behind the last with some
        places = slice(*starts) if len(starts) == 2 else slice(0)
        return frozenset(self.names[index] for index in self._aspects[places])


def _kept(dataset: Dataset, what: str, make: Callable[[], Arrays]) -> Arrays:
    """What `make` makes of the dataset's reviews: files of this node if the dataset was read."""
    if dataset.on_disk is None:
        return make()
    return mapped_arrays(f"{dataset.manifest.fingerprint}.{what}-{_RULES}", make)


def _menu_arrays(dataset: Dataset) -> Arrays:
    """Where each item's menu starts, and the aspects of all menus."""
    assert dataset.item_aspects is not None
    columns = _arrays(dataset.item_aspects)
    margins = columns["num_positive"] - columns["num_negative"]
    is_blamed = columns["num_negative"] > 0
    if dataset.low_rated_aspects is not None:
        keys, others = _keys(columns), _arrays(dataset.low_rated_aspects)
        places = np.searchsorted(keys, _keys(others)).clip(max=len(keys) - 1)
        there = keys[places] == _keys(others)
        margins[places[there]] += (others["num_positive"] - others["num_negative"])[there]
        is_blamed[places[there]] |= others["num_negative"][there] > 0
    on_menu = ~(is_blamed & (margins <= 0))
    items = columns["item_index"][on_menu]  # in order
    starts = np.searchsorted(items, np.arange(items.max(initial=-1) + 2))
    return {"starts": starts, "aspects": columns["aspect_index"][on_menu]}


def _arrays(counts: pa.Table) -> dict[str, NDArray[np.int32]]:
    names = ("item_index", "aspect_index", "num_positive", "num_negative")
    return {name: counts[name].to_numpy() for name in names}


def _keys(columns: Mapping[str, NDArray[np.int32]]) -> NDArray[np.int64]:
    """One number for the item and the aspect of each row, in the order of the rows."""
    return (columns["item_index"].astype(np.int64) << 32) + columns["aspect_index"]


class Opinions:
    """The opinions of a dataset's training reviews; none if it has no aspects of reviews."""

    def __init__(self, dataset: Dataset):
        has_any = dataset.aspects_from == "reviews" and dataset.explanation_aspects is not None
        make = partial(_opinion_arrays, dataset)
        self._arrays = _kept(dataset, "opinions", make) if has_any else None

    def of(self, item_index: int, aspect_index: int, without_user: int | None = None) -> str:
        """The words that say most of an aspect of an item, or "".

        What user `without_user` wrote is left out of the item's reviews.
        """
        if self._arrays is None:
            return ""
        said, key = self._arrays, (item_index << 32) + aspect_index
        weights: defaultdict[str, float] = defaultdict(float)
        for row in range(*np.searchsorted(said["keys"], [key, key + 1])):
            if said["users"][row] != without_user:
                words = said["letters"][said["starts"][row] : said["starts"][row + 1]]
                weights[words.tobytes().decode()] += said["rarities"][row]
        return min(weights, key=lambda words: (-weights[words], words), default="")


def _opinion_arrays(dataset: Dataset) -> Arrays:
    """The opinions by item and aspect: keys, users, rarities (n,), and their letters.

    A rarity says how few of the reviews that praise an aspect do so by these words, in nats.
    """
    assert dataset.explanation_aspects is not None
    assert dataset.aspects is not None
    names = dataset.aspects["aspect"].to_pylist()
    praise = (pc.field("split") == "train") & (pc.field("sentiment") == "positive")
    rows = dataset.explanation_aspects.filter(praise).to_pandas()
    rows["words"] = [" ".join(opinion.split()) for opinion in rows["opinion"]]
    aspects = map(names.__getitem__, rows["aspect_index"])
    rows = rows[np.fromiter(map(_says_more_than, aspects, rows["words"]), bool, len(rows))]
    rows = rows.sort_values(["item_index", "aspect_index"], kind="stable")
    of_aspect = rows.groupby("aspect_index")["words"].transform("size")
    by_words = rows.groupby(["aspect_index", "words"])["words"].transform("size")
    letters = [words.encode() for words in rows["words"]]
    return {
        "keys": _keys({name: rows[name].to_numpy() for name in ("item_index", "aspect_index")}),
        "users": rows["user_index"].to_numpy(),
        "rarities": np.log((1 + of_aspect) / by_words).to_numpy(dtype=np.float64),
        "starts": np.cumsum([0, *map(len, letters)]),
        "letters": np.frombuffer(b"".join(letters), np.uint8),
    }


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
