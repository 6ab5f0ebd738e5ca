"""Reviews in which items have aspects of their own, and half of the users have a habit."""

import numpy as np
import pytest
import scipy.sparse

from xrec.aspects.mentions import Mentions
from xrec.aspects.neighbours import item_vectors, nearest_items
from xrec.aspects.scorer import AspectScorer

NUM_USERS, NUM_ITEMS, NUM_ASPECTS = 12, 8, 6


def town(split: int = 0) -> Mentions:
    """Each item has two aspects of its own; half of the users always mention the last one."""
    rng = np.random.default_rng([0, split])
    pairs = rng.random((NUM_USERS, NUM_ITEMS)) < 0.5
    users, items = (part.astype(np.int64) for part in pairs.nonzero())
    mentions = np.zeros((len(users), NUM_ASPECTS), dtype=np.float32)
    rows = np.arange(len(users))
    for shift in (0, 1):
        mentions[rows, (items + shift) % 5] = rng.random(len(users)) < 0.7
    mentions[:, 5] = (users % 2 == 0) & (rng.random(len(users)) < 0.9)
    return Mentions(users, items, scipy.sparse.csr_matrix(mentions), NUM_USERS, NUM_ITEMS)


@pytest.fixture(scope="session")
def mentions():
    return town()


@pytest.fixture(scope="session")
def neighbours(mentions):
    return nearest_items(item_vectors(mentions, embedding_dim=4), 3)


@pytest.fixture(scope="session")
def scorer(mentions, neighbours):
    return AspectScorer(mentions, neighbours)
