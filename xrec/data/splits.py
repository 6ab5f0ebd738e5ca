"""Splits and samples pairs by a seeded hash of their IDs.

The result for a pair depends on nothing else: not on the order, the process, or other pairs. A
larger sample contains every smaller one.
"""

import heapq
from collections.abc import Sequence
from hashlib import blake2b
from operator import attrgetter
from typing import TypeVar

import numpy as np
import pyarrow as pa

from xrec.config import Split, SplitShares
from xrec.data.dataset import Dataset, taken

PairT = TypeVar("PairT")


def split_pairs(
    user_ids: Sequence[str], item_ids: Sequence[str], shares: SplitShares
) -> list[Split]:
    """Return the split of each pair, by the shares of test and validation; the rest is train."""
    seed, test, held_out = shares.seed, shares.test, shares.test + shares.validation
    pairs = zip(user_ids, item_ids, strict=True)
    fractions = (pair_fraction(user, item, seed) for user, item in pairs)
    return [
        "test" if each < test else "validation" if each < held_out else "train"
        for each in fractions
    ]


def pair_fraction(user_id: str, item_id: str, seed: int) -> float:
    """Return a number in [0, 1), uniform over pairs and seeds (BLAKE2b)."""
    return int.from_bytes(_hash(f"{seed}", user_id, item_id, 6), "big") / 2**48


def drawn(
    user_ids: Sequence[str], item_ids: Sequence[str], count: int | None, *, seed: int = 0
) -> list[int]:
    """Return the positions of `count` of the N pairs in increasing order; all if it is None."""
    if count is None or count >= len(user_ids):
        return list(range(len(user_ids)))
    pairs = zip(user_ids, item_ids, strict=True)
    hashes = [_hash(f"draw:{seed}", user, item, 8) for user, item in pairs]
    return sorted(heapq.nsmallest(count, range(len(hashes)), key=hashes.__getitem__))


def drawn_pairs(pairs: Sequence[PairT], count: int | None, *, seed: int = 0) -> list[PairT]:
    """Return `count` of the pairs in their order; all if it is None. Pairs must have IDs."""
    users, items = (list(map(attrgetter(name), pairs)) for name in ("user_id", "item_id"))
    return [pairs[place] for place in drawn(users, items, count, seed=seed)]


def drawn_explanations(
    dataset: Dataset, explanations: pa.Table, count: int | None, *, seed: int = 0
) -> pa.Table:
    """Return `count` of the rows of `explanations` (schema EXPLANATIONS) in their order."""
    users = taken(dataset.users["user_id"], explanations["user_index"].to_pylist())
    items = taken(dataset.items["item_id"], explanations["item_index"].to_pylist())
    is_drawn = np.isin(np.arange(len(users)), drawn(users, items, count, seed=seed))
    return explanations.filter(pa.array(is_drawn))  # `take` would copy whole columns of texts


def _hash(of: str, user_id: str, item_id: str, num_bytes: int) -> bytes:
    # The length distinguishes the pairs ("a", "bc") and ("ab", "c").
    key = f"{of}:{len(user_id)}:{user_id}{item_id}".encode()
    return blake2b(key, digest_size=num_bytes).digest()
