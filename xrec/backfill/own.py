"""Whether texts, profiles and vectors are still those of their pairs, items and users.

Each figure is a share of comparisons that the own one wins over another one, drawn at random; a tie
counts half. Where things were exchanged, each wins one of two.
"""

import random
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from xrec.data.dataset import Dataset, taken

if TYPE_CHECKING:
    from xrec.graph.artifact import GraphEmbeddings

LEAST_ROWS = 50
"""A figure of fewer is not known."""
_NUM_DRAWN = 4000
_WORD = re.compile(r"[\w'-]+")


def own_texts(
    texts: Sequence[str], before: Sequence[str], others: Iterable[list[int]], draw: random.Random
) -> float | None:
    """The share of texts nearer to their own earlier text than to one of `others`, which differ.

    Near is how many of their words two texts have in common (Jaccard). Words with capitals do not
    count, as those of titles, which a text about anything would have.
    """
    scores: list[float] = []
    for place, some in enumerate(others):
        if some := [each for each in some if before[each] != before[place]]:
            own, other = (_near(texts[place], before[n]) for n in (place, draw.choice(some)))
            is_same = texts[place] == before[place]
            scores.append(1.0 if is_same else (own > other) + (own == other) / 2)
    return sum(scores) / len(scores) if len(scores) >= LEAST_ROWS else None


def own_profiles(dataset: Dataset, earlier: Dataset) -> float | None:
    """The share of items' profiles nearer to the item's in an earlier dataset than to another's."""
    draw = random.Random(0)
    ids = earlier.items["item_id"]
    drawn = draw.sample(range(len(ids)), min(_NUM_DRAWN, len(ids)))
    rows = dataset.item_ids.rows(pa.chunked_array([taken(ids, drawn)]))
    both = [(row, old) for row, old in zip(rows.tolist(), drawn, strict=True) if row >= 0]
    texts, before = (
        [text.lower() for text in taken(each.items["profile"], [place[n] for place in both])]
        for n, each in enumerate((dataset, earlier))
    )
    others = (draw.choices(range(len(both)), k=8) for _ in both)
    return own_texts(texts, before, others, draw)


def own_vectors(dataset: Dataset, graph: "GraphEmbeddings") -> float | None:
    """The share of users' training items whose vectors score higher than an item of another user.

    The other item was taken by someone as the own one was, so that popularity tells nothing.
    """
    edges, draw = dataset.interaction_edges("train"), np.random.default_rng(0)
    users, own = edges[:, draw.integers(edges.shape[1], size=_NUM_DRAWN)]
    others = edges[1, draw.integers(edges.shape[1], size=_NUM_DRAWN)]
    starts, ends = (np.searchsorted(edges[0], users, side=side) for side in ("left", "right"))
    seen = [o in edges[1, a:b] for o, a, b in zip(others, starts, ends, strict=True)]
    users, own, others = (each[~np.array(seen)] for each in (users, own, others))
    if len(np.unique(users)) < LEAST_ROWS:
        return None
    vectors, (of_own, of_other) = graph.users[users], (graph.items[own], graph.items[others])
    better = (vectors * (of_own - of_other)).sum(dim=1)
    return float(((better > 0) + (better == 0) / 2).float().mean())


def _near(one: str, other: str) -> float:
    words = [{word for word in _WORD.findall(text) if word.islower()} for text in (one, other)]
    return len(words[0] & words[1]) / max(1, len(words[0] | words[1]))
