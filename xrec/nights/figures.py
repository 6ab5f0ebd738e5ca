"""The figures that a gate compares: shares of the new texts, and how they differ from the old ones.

The figures `own_...` are shares of comparisons. Each compares a text, profile or vector with its
own earlier version (or item) and with a randomly drawn other one, and its own should be nearer. A
tie counts as half, so the share is about 0.5 if things were mixed up.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from xrec.data import Dataset, taken

if TYPE_CHECKING:
    from xrec.graph.artifact import GraphEmbeddings

LEAST_ROWS = 50
"""A figure that is computed from fewer rows is unknown."""
_NUM_DRAWN = 4000
_WORD = re.compile(r"[\w'-]+")

Rows = Mapping[tuple[str, str], Mapping[str, Any]]
"""Explanations (schema GENERATED) by user and item."""
Values = dict[str, float | None]
"""Figures by name; None if a figure is unknown."""


def text_shares(rows: Rows) -> Values:
    """Return the figures that need no published version; each is a share of `rows`."""
    texts = list(rows.values())
    [(_, num_commonest)] = Counter(row["explanation"] for row in texts).most_common(1) or [("", 0)]
    return {
        "plain": _share(  # of those that a language model was asked for
            row["kind"] == "plain" for row in texts if row["kind"] == "written" or row["refused"]
        ),
        "refused": _share(row["refused"] != "" for row in texts),
        "unsupported": _share(row["refused"] == "unsupported" for row in texts),
        "named": _share(
            any(aspect["is_named"] for aspect in row["aspects"]) for row in texts if row["aspects"]
        ),
        "commonest": num_commonest / len(texts) if len(texts) >= LEAST_ROWS else None,
    }


def drift(new: Rows, old: Rows, *, is_alike: bool) -> Values:
    """Return the figures that compare new texts with the published ones of the same pairs.

    is_alike: whether the same model wrote both with the same settings; otherwise `rewritten` is
        None.
    """
    pairs = sorted(new.keys() & old.keys())
    names = ("length", "distinct", "aspects", "rewritten", "own_item", "own_user")
    if len(pairs) < LEAST_ROWS:
        return dict.fromkeys(names)
    texts, before = ([rows[pair]["explanation"] for pair in pairs] for rows in (new, old))
    num_words, num_before = (sum(len(text.split()) for text in side) for side in (texts, before))
    differs = _share(text != earlier for text, earlier in zip(texts, before, strict=True))
    draw, of_item = random.Random(0), defaultdict[str, list[int]](list)
    for index, (_, item) in enumerate(pairs):
        of_item[item].append(index)
    of_other_items = (
        [n for n in draw.choices(range(len(pairs)), k=8) if pairs[n][1] != item]
        for _, item in pairs
    )
    return {
        "length": abs(num_words / max(num_before, 1) - 1),
        "distinct": len(set(texts)) / len(set(before)),
        "aspects": _distance(*(aspect_counts(rows[p] for p in pairs) for rows in (new, old))),
        "rewritten": differs if is_alike else None,
        "own_item": own_texts(texts, before, of_other_items, draw),
        "own_user": own_texts(texts, before, (of_item[item] for _, item in pairs), draw),
    }


def aspect_counts(rows: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Return for how many of the rows each aspect was chosen."""
    return Counter(evidence["aspect"] for row in rows for evidence in row["aspects"])


def _share(flags: Iterable[bool]) -> float | None:
    known = list(flags)
    return sum(known) / len(known) if len(known) >= LEAST_ROWS else None


def _distance(counts: Counter[str], others: Counter[str]) -> float | None:
    """Return the total variation distance of two distributions, 0 to 1; None if one is empty."""
    if not counts or not others:
        return None
    total, total_others = counts.total(), others.total()
    return sum(abs(counts[n] / total - others[n] / total_others) for n in counts | others) / 2


def own_texts(
    texts: Sequence[str], before: Sequence[str], others: Iterable[list[int]], draw: random.Random
) -> float | None:
    """Return the share of texts that are nearer to their own earlier text than to another one.

    Nearness is the Jaccard similarity of the sets of words. Words with capitals do not count,
    because words from titles occur in texts about anything.

    others: for each text, indices of earlier texts, from which one unlike its own is drawn.
    """
    scores: list[float] = []
    for index, candidates in enumerate(others):
        if candidates := [n for n in candidates if before[n] != before[index]]:
            own, other = (_near(texts[index], before[n]) for n in (index, draw.choice(candidates)))
            is_same = texts[index] == before[index]
            scores.append(1.0 if is_same else (own > other) + (own == other) / 2)
    return sum(scores) / len(scores) if len(scores) >= LEAST_ROWS else None


def own_profiles(dataset: Dataset, earlier: Dataset) -> float | None:
    """Return the share of items whose profile is nearer to its earlier version than to another."""
    draw = random.Random(0)
    ids = earlier.items["item_id"]
    drawn = draw.sample(range(len(ids)), min(_NUM_DRAWN, len(ids)))
    rows = dataset.item_ids.rows(pa.chunked_array([taken(ids, drawn)]))
    both = [(row, old) for row, old in zip(rows.tolist(), drawn, strict=True) if row >= 0]
    texts, before = (
        [text.lower() for text in taken(source.items["profile"], [indices[n] for indices in both])]
        for n, source in enumerate((dataset, earlier))
    )
    others = (draw.choices(range(len(both)), k=8) for _ in both)
    return own_texts(texts, before, others, draw)


def own_vectors(dataset: Dataset, graph: "GraphEmbeddings") -> float | None:
    """Return the share of training interactions that score higher than a randomly drawn item.

    That item is drawn from all interactions, so popularity makes no difference; items that the user
    interacted with are left out.
    """
    edges, draw = dataset.interaction_edges("train"), np.random.default_rng(0)
    users, own = edges[:, draw.integers(edges.shape[1], size=_NUM_DRAWN)]
    others = edges[1, draw.integers(edges.shape[1], size=_NUM_DRAWN)]
    starts, ends = (np.searchsorted(edges[0], users, side=side) for side in ("left", "right"))
    seen = [item in edges[1, a:b] for item, a, b in zip(others, starts, ends, strict=True)]
    users, own, others = (indices[~np.array(seen)] for indices in (users, own, others))
    if len(np.unique(users)) < LEAST_ROWS:
        return None
    vectors, (of_own, of_other) = graph.users[users], (graph.items[own], graph.items[others])
    better = (vectors * (of_own - of_other)).sum(dim=1)
    return float(((better > 0) + (better == 0) / 2).float().mean())


def _near(text: str, other: str) -> float:
    words = [{word for word in _WORD.findall(side) if word.islower()} for side in (text, other)]
    return len(words[0] & words[1]) / max(1, len(words[0] | words[1]))
