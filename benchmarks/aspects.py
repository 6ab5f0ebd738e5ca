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

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.aspects_baselines import BASELINES, Method
from benchmarks.aspects_data import Split, read_reviews
from benchmarks.aspects_ours import OURS
from benchmarks.aspects_report import Outcome, rows
from benchmarks.aspects_substitutes import Substitutes
from benchmarks.graph_report import markdown
from benchmarks.graph_results import machine
from xrec.aspects import ndcg
from xrec.data import read_dataset
from xrec.storage import open_location

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

METHODS: dict[str, Method] = {**BASELINES, **OURS}


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
    output.mkdir(parents=True, exist_ok=True)
    (output / "aspects.json").write_text(json.dumps({"rows": table, **machine()}, indent=1) + "\n")
    (output / "aspects.md").write_text(markdown(table))
    typer.echo(f"\n{markdown(table)}")


def _split(reviews: Path | None, vocabulary: Path | None, dataset: str | None) -> Split:
    if dataset is not None and reviews is None:
        return Split.of_dataset(read_dataset(open_location(dataset)))
    if dataset is not None or reviews is None or vocabulary is None:
        raise typer.BadParameter("expected REVIEWS and VOCABULARY, or --dataset")
    words = vocabulary.read_text().split()
    return Split.by_time(read_reviews(reviews, words), words)


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


if __name__ == "__main__":
    app()
