"""Which aspects of an item does a user mention in their next review of it?

    python -m benchmarks.aspects REVIEWS VOCABULARY

REVIEWS is a gzipped file of JSON lines with user_id, item_id, review and time, sorted by time.
VOCABULARY has an aspect a line: the words that are looked for. Each user's last review is the test,
the last but one is for choices, and all others are for training. Each method ranks all aspects for
the pairs of the test reviews, and NDCG@10 says how well the ranking finds those that the review
mentions. `item` is the share of the item's training reviews, smoothed by five of the catalogue's.

What is the user's own in it is shown by two controls: the same for another user in the place of the
pair's, and for another reviewer of the same item. The seed draws those, and is the seed of whatever
a method draws.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import scipy.sparse
import torch
import typer

from benchmarks.aspects_data import Floats, Indices, Reviews, Split, read_reviews
from benchmarks.report import (
    BENCHMARKS,
    Output,
    Record,
    Seeds,
    Values,
    command_line,
    with_interval,
    write_tables,
)
from xrec.aspects.fit import fit, ndcg
from xrec.aspects.mentions import Mentions
from xrec.aspects.neighbours import item_vectors, nearest_items

app = command_line()

_SMOOTHING = np.float32(5)  # reviews of the whole catalogue added to those of an item
_DIM, _NUM_NEIGHBOURS = 64, 100  # of ours
Score = Callable[[Indices, Indices], Floats]
"""Scores (N, A) of all aspects for users (N,) and items (N,)."""
Method = Callable[[Split, int], Score]
"""Learns from a split; the second argument is the seed of all that is drawn."""


def item_frequency(split: Split, seed: int) -> Score:
    """The share of the item's training reviews, smoothed by five of the catalogue's."""
    train = split.train
    counts = np.zeros((split.num_items, len(split.aspects)), dtype=np.float32)
    np.add.at(counts, train.items, train.mentions)
    num_reviews = np.bincount(train.items, minlength=split.num_items)[:, None].astype(np.float32)
    catalogue = (train.mentions.sum(axis=0) + np.float32(0.5)) / np.float32(len(train) + 1)
    shares: Floats = (counts + _SMOOTHING * catalogue) / (num_reviews + _SMOOTHING)
    return lambda users, items: shares[items]


def ours(split: Split, seed: int) -> Score:
    """xrec's scorer: neighbours by the graph with aspects, its numbers on validation."""
    train, validation = (_mentions(reviews, split) for reviews in (split.train, split.validation))
    vectors = item_vectors(train, embedding_dim=_DIM, seed=seed)
    found = fit(train, validation, nearest_items(vectors, _NUM_NEIGHBOURS), seed=seed)
    return lambda users, items: found.scorer.scores(users, items)


METHODS: dict[str, Method] = {"item": item_frequency, "ours": ours}


def _mentions(reviews: Reviews, split: Split) -> Mentions:
    aspects = scipy.sparse.csr_matrix(reviews.mentions.astype(np.float32))
    return Mentions(reviews.users, reviews.items, aspects, split.num_users, split.num_items)


@app.command(help=__doc__)
def aspects(
    reviews: Annotated[Path, typer.Argument(help="Reviews, JSON lines, gzipped.")],
    vocabulary: Annotated[Path, typer.Argument(help="Aspects, one a line.")],
    seed: Seeds = None,
    output: Output = BENCHMARKS / "aspects",
) -> None:
    """Run the methods, print the table and write it to `output`."""
    torch.set_num_threads(1)
    words = vocabulary.read_text().split()
    split = Split.by_time(read_reviews(reviews, words), words)
    typer.echo(
        f"{len(split.train)} reviews to train, {len(split.validation)} to choose, "
        f"{len(split.test)} to test; {split.num_items} items, {len(split.aspects)} aspects"
    )
    outcomes = {
        name: [measure(split, method, number) for number in seed or (0, 1, 2)]
        for name, method in METHODS.items()
    }
    write_tables(output, "aspects", {"NDCG@10 of each method": rows(outcomes)})


@dataclass(frozen=True)
class Substitutes:
    """Users in place of the test pairs' own: `another` (N,), and one of the `same_item` (N,).

    `same_item` is -1 where no other user has a training review of the item.
    """

    another: Indices
    same_item: Indices

    @classmethod
    def draw(cls, split: Split, seed: int) -> "Substitutes":
        """Draw both uniformly, for each pair, among the users with training reviews."""
        rng = np.random.default_rng([seed, 21])
        known = np.unique(split.train.users)
        another, same_item = [], []
        for user, item in zip(split.test.users, split.test.items, strict=True):
            another.append(_one_of(rng, known, user))
            reviewers = np.unique(split.train.users[split.train.items == item])
            same_item.append(_one_of(rng, reviewers, user))
        return cls(np.array(another), np.array(same_item))


def _one_of(rng: np.random.Generator, users: Indices, but: int) -> int:
    others = users[users != but]
    return int(rng.choice(others)) if len(others) else -1


@dataclass(frozen=True, eq=False)
class Outcome:
    """NDCG@10 of N test pairs by one method and seed, each (N,).

    `own` ranks for the pair's user, `another` for any other user, and `same_item` for another
    reviewer of the item, NaN where there is none.
    """

    own: Values
    another: Values
    same_item: Values


def measure(split: Split, method: Method, seed: int) -> Outcome:
    """Train `method` and rank the test pairs for their own users and for the substitutes."""
    score, test = method(split, seed), split.test
    substitutes = Substitutes.draw(split, seed)
    own, another, same_item = (
        ndcg(score(users, test.items), test.mentions)
        for users in (
            test.users,
            substitutes.another,
            np.where(substitutes.same_item < 0, test.users, substitutes.same_item),
        )
    )
    return Outcome(own, another, np.where(substitutes.same_item < 0, np.nan, same_item))


def rows(outcomes: Mapping[str, Sequence[Outcome]]) -> list[Record]:
    """A row for each method; all are over the same pairs. "minus" compares with `item`."""
    item = _mean([outcome.own for outcome in outcomes["item"]])
    return [_row(name, seeds, item) for name, seeds in outcomes.items()]


def _row(name: str, seeds: Sequence[Outcome], item: Values) -> Record:
    own = _mean([outcome.own for outcome in seeds])
    another = _mean([outcome.another for outcome in seeds])
    same_item = _mean([outcome.same_item for outcome in seeds])
    return {
        "method": name,
        "NDCG@10": _shown(own),
        "by seed": ", ".join(f"{outcome.own.mean():.4f}" for outcome in seeds),
        "minus item": _shown(own - item),
        "own minus another's": _shown(own - another),
        "own minus another's of the item": _shown(own - same_item),
    }


def _mean(values: Sequence[Values]) -> Values:
    mean: Values = np.mean(values, axis=0)
    return mean


def _shown(values: Values) -> str:
    return with_interval(values, range(len(values)), 4)  # each user has one pair


if __name__ == "__main__":
    app()
