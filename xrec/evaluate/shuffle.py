"""Another user for each pair, with whose vector the user's own one is compared."""

from collections.abc import Sequence

import numpy as np


def other_users(user_ids: Sequence[str], seed: int) -> list[str]:
    """Another user for each pair's user: the next one in a seeded ring of the distinct users.

    Each user stands in for exactly one other, whatever the order of the pairs; all pairs of a user
    get the same other. Raises ValueError if there are fewer than two users.
    """
    distinct = sorted(set(user_ids))
    if len(distinct) < 2:
        raise ValueError(
            f"{len(distinct)} distinct user(s) in {len(user_ids)} pairs; another user's vector "
            "needs at least 2: evaluate more pairs"
        )
    ring = [distinct[index] for index in np.random.default_rng(seed).permutation(len(distinct))]
    following = dict(zip(ring, ring[1:] + ring[:1], strict=True))
    return [following[user_id] for user_id in user_ids]
