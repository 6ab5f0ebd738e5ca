"""Whether earlier profiles still fit the reviews of today.

A new review of an item hardly changes what its reviews say, but with a language model a new profile
costs four prompts, and each text that shows the profile is written again too. So an earlier profile
is kept if the reviews that it was written from are still there, unchanged and in training, and if
no aspect's share of the reviews can have moved far:

    moved = max over aspects of max(|now - then|, |now + unknown - then|)

now and then are the shares of reviews that mention the aspect. Aspects are those that the earlier
annotations found; unknown is the share of reviews that came later, which may mention it too.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from xrec.annotate.annotator import Input
from xrec.annotate.formats import KIND
from xrec.annotate.read import read_stage
from xrec.annotate.store import Folder, ReviewStore
from xrec.config import StorageConfig
from xrec.storage import open_location, read_manifest

_PAIR = ("user_id", "item_id")


@dataclass(frozen=True)
class Drift:
    """Compares profiles of earlier annotations with the reviews of today.

    max_moved: the largest move of a share at which a profile is kept. now, then: the reviews of
    today, and those of the earlier annotations. said: user_id, item_id, and the aspects that the
    earlier annotations found.
    """

    max_moved: float
    now: ReviewStore
    then: ReviewStore
    said: pa.Table

    @classmethod
    def since(cls, uri: str, max_moved: float, now: ReviewStore, storage: StorageConfig) -> "Drift":
        """Return the drift since the annotations at `uri`; raise what reading them raises."""
        earlier = open_location(uri, storage)
        metrics = read_manifest(earlier, KIND).metrics
        version = metrics["tables"]["pairs"]
        said = read_stage(earlier, "pairs", version, (*_PAIR, "aspects"), storage)
        return cls(max_moved, now, ReviewStore(earlier, metrics["num_files"]), said)

    def reasons(self, rows: Sequence[Input], profiles: pa.Table) -> Iterator[str | None]:
        """Yield why each row's earlier profile must be written again; None if it may stay.

        profiles: the earlier rows, whose `left_out` lists the reviews that they were written from.
        """
        own, other = _PAIR if "user_id" in profiles.column_names else _PAIR[::-1]
        folder: Folder = "training_by_user" if own == "user_id" else "training_by_item"
        ids = profiles[own].to_pylist()
        reviews = [
            {
                (each[own], each[other]): (each["summary"], each["review"], each["rating"])
                for each in store.of(folder, ids).to_pylist()
            }
            for store in (self.now, self.then)
        ]
        wanted = self.said.filter(pc.is_in(self.said[own], value_set=pa.array(ids, pa.string())))
        aspects = {
            (row[own], row[other]): {each["aspect"].casefold() for each in row["aspects"]}
            for row in wanted.to_pylist()
        }
        for id_, row, parts in zip(ids, rows, profiles["left_out"].to_pylist(), strict=True):
            written = [(id_, part["id"]) for part in parts or ()]
            now, then = ([of.get(pair) for pair in written] for of in reviews)
            if not written or None in now or now != then:
                yield "reviews"
                continue
            shown = [(id_, getattr(review, other)) for review in row.shown]
            before, today = (
                _shares([aspects.get(pair, set()) for pair in of]) for of in (written, shown)
            )
            unknown = sum(pair not in aspects for pair in shown) / len(shown)
            differences = [today[name] - before[name] for name in {*before, *today}]
            moved = max([unknown, *(max(abs(d), abs(d + unknown)) for d in differences)])
            yield "drift" if moved > self.max_moved else None


def _shares(reviews: Sequence[set[str]]) -> defaultdict[str, float]:
    """Return the share of reviews that mention each aspect, 0 by default."""
    shares = defaultdict[str, float](float)
    for name in (name for names in reviews for name in names):
        shares[name] += 1 / len(reviews)
    return shares
