"""Which aspects of an item does a user mention in their next review of it?

    python -m benchmarks.aspects REVIEWS VOCABULARY
    python -m benchmarks.aspects --dataset workspace/instruments/dataset

REVIEWS is a gzipped file of JSON lines with user_id, item_id, review and time, sorted by time.
VOCABULARY has an aspect a line: the words that are looked for. Each user's last review is the test,
the last but one is for choices, and all others are for training. Each method ranks all aspects for
the pairs of the test reviews, and NDCG@10 says how well the ranking finds those that the review
mentions. A dataset has aspects and splits of its own, which are taken as they are.

What is the user's own in it is shown by two controls: the same for another user in the place of the
pair's, and for another reviewer of the same item. The seed draws those, and is the seed of whatever
a method draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from benchmarks.aspects_data import Indices, Split, read_reviews
from benchmarks.aspects_methods import METHODS, Method
from benchmarks.report import Record, write_tables
from xrec.aspects import ndcg
from xrec.data import read_dataset
from xrec.evaluate import bootstrap_mean
from xrec.storage import open_location

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

_NUM_SAMPLES = 2000
Values = NDArray[np.float64]


@app.command(help=__doc__)
def aspects(
    reviews: Annotated[Path | None, typer.Argument(help="Reviews, JSON lines, gzipped.")] = None,
    vocabulary: Annotated[Path | None, typer.Argument(help="Aspects, one a line.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="URI of a dataset with aspects, in their place.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help=f"Any of {', '.join(METHODS)}; by default all.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seeds; by default 0, 1 and 2.")] = None,
    output: Annotated[Path, typer.Option(help="Folder of the table.")] = Path(
        "workspace/benchmarks/aspects"
    ),
) -> None:
    """Run the methods, print the table and write it to `output`."""
    torch.set_num_threads(1)
    split = _split(reviews, vocabulary, dataset)
    typer.echo(
        f"{len(split.train)} reviews to train, {len(split.validation)} to choose, "
        f"{len(split.test)} to test; {split.num_items} items, {len(split.aspects)} aspects"
    )
    outcomes: dict[str, list[Outcome]] = {}
    for name in dict.fromkeys(["item", *(method or METHODS)]):
        if name not in METHODS:
            raise typer.BadParameter(f"no method is named {name!r}; known: {', '.join(METHODS)}")
        outcomes[name] = [measure(split, METHODS[name], number) for number in seed or (0, 1, 2)]
        typer.echo(f"{name}: {np.mean([outcome.own.mean() for outcome in outcomes[name]]):.4f}")
    table = rows(outcomes, baselines=("item", "log-linear"))
    typer.echo(write_tables(output, "aspects", {"NDCG@10 of each method": table}))


def _split(reviews: Path | None, vocabulary: Path | None, dataset: str | None) -> Split:
    if dataset is not None and reviews is None:
        return Split.of_dataset(read_dataset(open_location(dataset)))
    if dataset is not None or reviews is None or vocabulary is None:
        raise typer.BadParameter("expected REVIEWS and VOCABULARY, or --dataset")
    words = vocabulary.read_text().split()
    return Split.by_time(read_reviews(reviews, words), words)


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


def rows(outcomes: Mapping[str, Sequence[Outcome]], baselines: Sequence[str]) -> list[Record]:
    """Return a row for each method; all are over the same pairs.

    "minus" compares with the methods `baselines`, as far as they are there.
    """
    references = {
        name: _mean([outcome.own for outcome in outcomes[name]])
        for name in baselines
        if name in outcomes
    }
    return [_row(name, seeds, references) for name, seeds in outcomes.items()]


def _row(name: str, seeds: Sequence[Outcome], references: dict[str, Values]) -> Record:
    own = _mean([outcome.own for outcome in seeds])
    another = _mean([outcome.another for outcome in seeds])
    by_seed = ", ".join(f"{outcome.own.mean():.4f}" for outcome in seeds)
    return {
        "method": name,
        "NDCG@10": _shown(own),
        "by seed": by_seed if len({outcome.own.tobytes() for outcome in seeds}) > 1 else "the same",
        **{f"minus {other}": _shown(own - values) for other, values in references.items()},
        "own minus another's": _shown(own - another),
        "own minus another's of the item": _shown(
            own - _mean([outcome.same_item for outcome in seeds])
        ),
    }


def _mean(values: Sequence[Values]) -> Values:
    mean: Values = np.mean(values, axis=0)
    return mean


def _shown(values: Values) -> str:
    """Return the mean over the pairs that have a value, with its interval."""
    values = values[~np.isnan(values)]
    if not len(values):
        return "no pairs"
    users = range(len(values))  # each has one pair
    return bootstrap_mean(values, users, num_samples=_NUM_SAMPLES, seed=0).text(4)


if __name__ == "__main__":
    app()
