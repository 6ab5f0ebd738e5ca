"""Reviews in which items have aspects of their own, and half of the users have a habit."""

import numpy as np
import scipy.sparse

from xrec.aspects import Mentions

NUM_USERS, NUM_ITEMS, NUM_ASPECTS = 12, 8, 6


def town(seed: int = 0, split: int = 0) -> Mentions:
    """Each item has two aspects of its own; half of the users always mention the last one."""
    rng = np.random.default_rng([seed, split])
    pairs = rng.random((NUM_USERS, NUM_ITEMS)) < 0.5
    users, items = (part.astype(np.int64) for part in pairs.nonzero())
    mentions = np.zeros((len(users), NUM_ASPECTS), dtype=np.float32)
    rows = np.arange(len(users))
    for shift in (0, 1):
        mentions[rows, (items + shift) % 5] = rng.random(len(users)) < 0.7
    mentions[:, 5] = (users % 2 == 0) & (rng.random(len(users)) < 0.9)
    return Mentions(users, items, scipy.sparse.csr_matrix(mentions), NUM_USERS, NUM_ITEMS)
