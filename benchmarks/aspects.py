"""Does the formula that chooses aspects name what held-out reviews mention?

    python -m benchmarks.aspects DATASET...

DATASET is the URI of a dataset with aspects. With each seed, one review of each user who has three
or more is held out, and all others count; where aspects come from profiles, the explanations of
validation and test are held out. Candidates are the aspects of the item's menu, and relevant are
those that the held-out text mentions without blame; pairs without a relevant one, or with a single
candidate, are left out. `item`, `user` and `all` order the candidates by the reviews of the item,
of the user and of the catalog that mention them; of equal ones the more frequent comes first.
"own minus another's" is for another user, drawn at random, in the place of the pair's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import typer
from numpy.typing import NDArray

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
from xrec.aspects import AspectChooser, Choices
from xrec.data import Dataset, aspect_counts, edges_of, open_dataset

app = command_line()
K = 10
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out pairs users (N,), items (N,), what each mentioned (N, A), and all other reviews."""

    dataset: Dataset
    users: Indices
    items: Indices
    mentioned: NDArray[np.bool_]

    @classmethod
    def draw(cls, dataset: Dataset, seed: int) -> "HeldOut":
        """Hold out one review of each user with three or more; of profiles, all explanations."""
        said = dataset.explanation_aspects
        assert said is not None
        if dataset.aspects_from == "reviews":
            dataset, said = _without_one_each(dataset, said, np.random.default_rng([seed, 1]))
        is_held_out = (pc.field("split") != "train") & (pc.field("sentiment") != "negative")
        said = said.filter(is_held_out)
        pairs, rows = np.unique(edges_of(said), axis=1, return_inverse=True)
        assert dataset.aspects is not None
        mentioned = np.zeros((pairs.shape[1], dataset.aspects.num_rows), dtype=np.bool_)
        mentioned[rows.ravel(), said["aspect_index"].to_numpy()] = True
        return cls(dataset, pairs[0], pairs[1], mentioned)


def _without_one_each(
    dataset: Dataset, said: pa.Table, rng: np.random.Generator
) -> tuple[Dataset, pa.Table]:
    users, items = edges_of(dataset.interactions)
    order = np.lexsort((rng.random(len(users)), users))
    firsts = np.flatnonzero(np.diff(users[order], prepend=-1))
    drawn = order[firsts][np.bincount(users)[users[order][firsts]] >= 3]
    is_drawn = np.zeros(len(users), dtype=np.bool_)
    is_drawn[drawn] = True
    keys = users * dataset.num_items + items
    said_keys = edges_of(said)[0] * dataset.num_items + edges_of(said)[1]
    interactions, said = (
        table.set_column(
            table.schema.get_field_index("split"),
            "split",
            pa.array(np.where(held, "test", "train"), pa.string()),
        )
        for table, held in (
            (dataset.interactions, is_drawn),
            (said, np.isin(said_keys, keys[is_drawn])),
        )
    )
    trained = said.filter(pc.field("split") == "train")
    counts = {f"{side}_aspects": aspect_counts(trained, side) for side in ("item", "user")}
    changed = {"interactions": interactions, "explanation_aspects": said, "on_disk": None}
    return replace(dataset, **changed, **counts), said


def measure(dataset: Dataset, seed: int) -> tuple[Indices, dict[str, Values]]:
    """Return the users of the pairs with a relevant candidate, (N,), and NDCG@10 by order, (N,)."""
    held_out = HeldOut.draw(dataset, seed)
    chooser, num_aspects = AspectChooser(held_out.dataset), held_out.mentioned.shape[1]
    ours = chooser.choose(held_out.users, held_out.items, num_aspects)
    others = np.random.default_rng([seed, 2]).permutation(np.unique(held_out.users))
    drawn = dict(zip(np.sort(others).tolist(), np.roll(np.sort(others), 1).tolist(), strict=True))
    instead = np.array([drawn[user] for user in held_out.users.tolist()])
    another = chooser.choose(instead, held_out.items, num_aspects)
    orders = {
        "formula": ours.aspects,
        "item": _by(ours, ours.item_reviews),
        "user": _by(ours, ours.user_reviews),
        "all": _by(ours, np.zeros_like(ours.item_reviews)),
        "another": another.aspects,
    }
    found = {name: ndcg(order, held_out.mentioned) for name, order in orders.items()}
    kept = ~np.isnan(found["formula"]) & ((ours.aspects >= 0).sum(axis=1) > 1)
    return held_out.users[kept], {name: values[kept] for name, values in found.items()}


def _by(choices: Choices, counts: NDArray[np.int32]) -> Indices:
    """Return the aspects of each pair, the largest count first and then the most frequent."""
    missing = choices.aspects < 0
    order = np.lexsort((choices.aspects, -counts, missing), axis=1)
    return np.take_along_axis(choices.aspects, order, axis=1)


def ndcg(order: Indices, mentioned: NDArray[np.bool_]) -> Values:
    """Return NDCG@10 of each row of `order` (N, A), where -1 is none; NaN if none is relevant."""
    gains = np.take_along_axis(mentioned, np.maximum(order, 0), axis=1) & (order >= 0)
    discounts = 1 / np.log2(np.arange(2, K + 2))
    ideal = np.concatenate([[np.nan], np.cumsum(discounts)])[np.minimum(gains.sum(axis=1), K)]
    found: Values = gains[:, :K] @ discounts[: gains.shape[1]] / ideal
    return found


@app.command(help=__doc__)
def aspects(
    datasets: Annotated[list[str], typer.Argument(help="URIs of datasets with aspects.")],
    seed: Seeds = None,
    output: Output = BENCHMARKS / "aspects",
) -> None:
    """Measure each dataset with each seed, print the table and write it to `output`."""
    tables = {}
    for uri in datasets:
        dataset = open_dataset(uri)
        found = [measure(dataset, number) for number in seed or range(5)]
        users = np.concatenate([of_seed for of_seed, _ in found])
        values = {n: np.concatenate([each[n] for _, each in found]) for n in found[0][1]}
        tables[f"NDCG@{K}: {uri}"] = rows(users, values)
    write_tables(output, "aspects", tables)


def rows(users: Indices, values: Mapping[str, Values]) -> list[Record]:
    """Return a row for each order; intervals are over users."""

    def shown(of_pairs: Values) -> str:
        return with_interval(of_pairs, users.tolist(), 4)

    formula = values["formula"]
    made = [
        {
            "order": name,
            "pairs": len(users),
            "NDCG": shown(values[name]),
            "formula minus it": shown(formula - values[name]),
        }
        for name in ("formula", "item", "user", "all")
    ]
    made[0]["own minus another's"] = shown(formula - values["another"])
    return made


if __name__ == "__main__":
    app()
