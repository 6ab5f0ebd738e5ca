"""The split of a pair, from a seeded hash of its ids.

It depends on nothing else: not on the order, the process, or other pairs.
"""

from collections.abc import Sequence
from hashlib import blake2b

from xrec.config.data import SplitShares
from xrec.config.shared import Split


def split_pairs(
    user_ids: Sequence[str], item_ids: Sequence[str], shares: SplitShares
) -> list[Split]:
    """The split of each pair, by the shares of test and validation; the rest goes to train."""
    return [
        _split(pair_fraction(user, item, shares.seed), shares)
        for user, item in zip(user_ids, item_ids, strict=True)
    ]


def pair_fraction(user_id: str, item_id: str, seed: int) -> float:
    """A number in [0, 1), uniform over pairs and seeds (BLAKE2b)."""
    # The length tells the pairs ("a", "bc") and ("ab", "c") apart.
    key = f"{seed}:{len(user_id)}:{user_id}{item_id}".encode()
    return int.from_bytes(blake2b(key, digest_size=6).digest(), "big") / 2**48


def _split(fraction: float, shares: SplitShares) -> Split:
    if fraction < shares.test:
        return "test"
    return "validation" if fraction < shares.test + shares.validation else "train"
