"""What backs a reason: aspects with counts, an item's menu, opinions, and what people did.

The menu of an item leaves out each aspect that at least as many of its reviews criticize as praise,
including low-rated reviews. A user complains of an aspect that more of their reviews criticize.

Counts show that reviewers praise the build of a stand; "built like a tank" says why. The opinion on
an aspect of an item is the phrase that is common in the item's reviews and rare in all reviews that
praise the aspect, so that it is specific to the item. It maximizes

    reviews of the item with the phrase x ln((1 + reviews with praise) / those with the phrase)

Phrases that only say that something is good ("great", "sounds good" for the sound) are left out.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec.data.dataset import Dataset, index_keys
from xrec.data.ids import rows_of
from xrec.data.language import PRAISE_OF_ANYTHING, tags, word_set
from xrec.storage import Arrays, mapped_arrays

_MOST_WORDS = 5
_SAY_LITTLE = PRAISE_OF_ANYTHING | word_set(
    "is are was it's sounds sound looks look feels feel works work fits fit plays play"
)
_SAYING_LITTLE = word_set("RB DT CC IN TO PRP PRP$")  # tags
_RULES = 1  # version of the rules for opinions, part of their file names
_SAME_BEGINNING = 3  # letters that forms of one word share: ease and easy


EvidenceKind = Literal["others", "history", "category", "popular", "abstained"]
"""The kinds of reasons by what people did, in the order in which they are tried."""
EVIDENCE_KINDS: tuple[EvidenceKind, ...] = get_args(EvidenceKind)


@dataclass(frozen=True)
class AspectEvidence:
    """An aspect of an item, and how many training reviews mention it.

    item_reviews of the item's num_item_reviews reviews mention the aspect, and so do user_reviews
    of the num_user_reviews reviews that the user wrote about any item. If the aspects come from
    profiles (`Dataset.aspects_from`), the item's profile counts as its only review, and the
    profiles of the items that the user interacted with count as the user's reviews.
    opinion: words that praise the aspect in the item's reviews, or "".
    """

    aspect: str
    item_reviews: int
    num_item_reviews: int
    user_reviews: int
    num_user_reviews: int
    opinion: str = field(default="", kw_only=True)

    @property
    def counts(self) -> dict[str, int]:
        """The four numbers of reviews, by field name."""
        return {name: value for name, value in vars(self).items() if name.endswith("_reviews")}


@dataclass(frozen=True)
class NamedEvidence(AspectEvidence):
    """The evidence for an aspect, and whether a given text names it."""

    is_named: bool


@dataclass(frozen=True)
class PeopleEvidence:
    """Why a pair was recommended, by what people did (xrec.neighbors.reasons).

    item_id, name: the supporting item, and its title or what to call it; or "" and the category;
    "" if there is neither. at_least: a lower bound of how many other people, 0 for none.
    sentence: all of this in words.
    """

    kind: EvidenceKind
    item_id: str
    name: str
    at_least: int
    sentence: str


class Menus:
    """The menus of a dataset's items, and its users' complaints; empty without aspects."""

    def __init__(self, dataset: Dataset):
        self._of_items = (dataset.item_aspects, dataset.low_rated_aspects)
        self._by_users = (dataset.user_aspects, dataset.low_rated_user_aspects)
        self.names: list[str] = (
            [] if dataset.aspects is None else dataset.aspects["aspect"].to_pylist()
        )

    def of(self, item_index: int) -> frozenset[str]:
        """Return the names of the aspects on the item's menu."""
        counts, low_rated = (_counts(table, item_index) for table in self._of_items)
        menu = set()
        for aspect, (num_positive, num_negative) in counts.items():
            more_positive, more_negative = low_rated.get(aspect, (0, 0))
            blame = num_negative + more_negative
            if not blame or num_positive + more_positive > blame:
                menu.add(self.names[aspect])
        return frozenset(menu)

    def complaints(self, user_index: int) -> frozenset[str]:
        """Return the names of the aspects that a user complains of."""
        margins = Counter[int]()
        for table in self._by_users:
            for aspect, (num_positive, num_negative) in _counts(table, user_index).items():
                margins[aspect] += num_positive - num_negative
        return frozenset(self.names[aspect] for aspect, margin in margins.items() if margin < 0)


def _counts(table: pa.Table | None, index: int) -> dict[int, tuple[int, int]]:
    """Return how many reviews of an item, or by a user, praise and criticize each aspect."""
    if table is None:
        return {}
    rows = rows_of(table[0], index)
    found = table.slice(rows.start, len(rows)).to_pydict()
    counts = zip(found["num_positive"], found["num_negative"], strict=True)
    return dict(zip(found["aspect_index"], counts, strict=True))


class Opinions:
    """The opinions in a dataset's training reviews; empty if its aspects are not from reviews."""

    def __init__(self, dataset: Dataset):
        make = partial(_opinion_arrays, dataset)
        if dataset.aspects_from != "reviews" or dataset.explanation_aspects is None:
            self._arrays = None
        elif dataset.on_disk is None:
            self._arrays = make()
        else:  # cached in files on this node
            name = f"{dataset.manifest.fingerprint}.opinions-{_RULES}"
            self._arrays = mapped_arrays(name, make)

    def of(self, item_index: int, aspect_index: int, without_user: int | None = None) -> str:
        """Return the most specific opinion on an aspect of an item, or "" if there is none.

        Reviews by the user `without_user` are left out.
        """
        if self._arrays is None:
            return ""
        said, key = self._arrays, index_keys(item_index, aspect_index)
        weights: defaultdict[str, float] = defaultdict(float)
        for row in range(*np.searchsorted(said["keys"], [key, key + 1])):
            if said["users"][row] != without_user:
                words = said["letters"][said["starts"][row] : said["starts"][row + 1]]
                weights[words.tobytes().decode()] += said["rarities"][row]
        return min(weights, key=lambda words: (-weights[words], words), default="")


def _opinion_arrays(dataset: Dataset) -> Arrays:
    """Return n opinions sorted by item and aspect: keys, users, rarities (n,), and their letters.

    The rarity, in nats, is high if few of the reviews that praise the aspect use these words.
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
    items, indices = (rows[name].to_numpy(np.int64) for name in ("item_index", "aspect_index"))
    return {
        "keys": index_keys(items, indices),
        "users": rows["user_index"].to_numpy(),
        "rarities": np.log((1 + of_aspect) / by_words).to_numpy(dtype=np.float64),
        "starts": np.cumsum([0, *map(len, letters)]),
        "letters": np.frombuffer(b"".join(letters), np.uint8),
    }


def _says_more_than(aspect: str, opinion: str) -> bool:
    """Return whether an opinion is short and says more than that the aspect is good."""
    words = opinion.casefold().split()
    of_aspect = [word[:_SAME_BEGINNING] for word in aspect.casefold().split()]
    return len(words) <= _MOST_WORDS and any(
        word not in _SAY_LITTLE
        and tags().get(word) not in _SAYING_LITTLE
        and word[:_SAME_BEGINNING] not in of_aspect
        for word in words
    )
