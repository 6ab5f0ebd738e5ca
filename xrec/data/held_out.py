"""The explained pairs of a held-out split: what generated explanations are scored against."""

from dataclasses import dataclass
from typing import Literal

from xrec.data.dataset import Dataset


@dataclass(frozen=True)
class HeldOutPair:
    """A pair with the text that it came with.

    In the generated sample only, `aspect` is the right one to name, and `aspects` are all of the
    item's.
    """

    user_id: str
    item_id: str
    user_index: int
    item_index: int
    reference: str
    aspect: str | None = None
    aspects: tuple[str, ...] | None = None


def held_out_pairs(dataset: Dataset, split: Literal["validation", "test"]) -> list[HeldOutPair]:
    """The split's explained pairs, by user and item."""
    user_ids, item_ids = dataset.users["user_id"].to_pylist(), dataset.items["item_id"].to_pylist()
    planted = (
        {}
        if dataset.planted is None
        else {(row["user_index"], row["item_index"]): row for row in dataset.planted.to_pylist()}
    )
    pairs = []
    for row in dataset.explained_pairs(split).to_pylist():
        user, item = row["user_index"], row["item_index"]
        known = planted.get((user, item))
        aspect, aspects = (known["aspect"], tuple(known["aspects"])) if known else (None, None)
        pairs.append(
            HeldOutPair(
                user_ids[user], item_ids[item], user, item, row["explanation"], aspect, aspects
            )
        )
    return pairs
