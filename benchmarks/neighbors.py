"""Reasons by what people did: `python -m benchmarks.neighbors evidence`, `night` and `build`.

A workspace has a dataset, a graph, neighbors and recommendations, as `xrec run` makes them. For
recommended and for held-out pairs, the figures are

    coverage    the share of pairs by kind of reason
    told apart  the share of items whose two drawn users have different supporting items, beside a
                random item and the most popular item of each user's history
    share       the supporting item's part of all positive contributions, beside a random item's
    drop        by how many ranks the item falls if the supporting item leaves the history, beside
                a random item (medians)
    true        the share of bounds that hold in a recount from the dataset's files alone
"""

import time
from collections import Counter, defaultdict
from dataclasses import replace
from typing import Annotated

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import typer

from benchmarks.bulk_work import forget_peak, peak_mb
from benchmarks.report import BENCHMARKS, Output, Record, Results, command_line, write_tables
from xrec.config import RecommendConfig, parse_config
from xrec.data import EVIDENCE_KINDS, Dataset, read_dataset
from xrec.graph.ranking import SeenItems
from xrec.neighbors.artifact import read_graph_if_any, read_neighbors
from xrec.neighbors.build import build
from xrec.neighbors.reasons import OTHERS, POPULAR, Found, Reasons
from xrec.neighbors.steps import lower_bounds
from xrec.recommend import read_recommendations
from xrec.recommend.ranking import reasons_of
from xrec.storage import location_of

app = command_line(__doc__)

Ints = npt.NDArray[np.int64]


@app.command()
def evidence(
    workspaces: Annotated[list[str], typer.Argument(help="Folders, e.g. workspace/yelp.")],
    num_pairs: Annotated[int, typer.Option(help="Pairs whose ranks are compared.")] = 10_000,
    output: Output = BENCHMARKS / "neighbors",
) -> None:
    """Coverage, told apart, fidelity and truth of reasons."""
    rows = []
    for workspace in workspaces:
        config, dataset, reasons = loaded(workspace)
        for pairs, (users, items) in (
            ("recommended", recommended_pairs(config, dataset)),
            ("held out", held_out_pairs(dataset)),
        ):
            found = reasons.of(users, items)
            row: Record = {"workspace": workspace, "pairs": pairs, "number": len(users)}
            row |= coverage(found) | told_apart(reasons, users, items, found)
            row |= shares(reasons, users, items, found)
            row |= drops(reasons, users, items, found, num_pairs)
            row |= {"true": truth(dataset, users, items, found)}
            rows.append(row)
            Results(output).append("neighbors", row)
    write_tables(output, "evidence", {"Reasons by what people did": rows})


@app.command()
def night(
    workspaces: Annotated[list[str], typer.Argument(help="Folders, e.g. workspace/yelp.")],
    new_share: Annotated[float, typer.Option(help="Share of interactions that are new.")] = 0.01,
    output: Output = BENCHMARKS / "neighbors",
) -> None:
    """The share of recommended pairs with another reason after a night, and seconds of a build."""
    rows = []
    for workspace in workspaces:
        config, dataset, today = loaded(workspace)
        table = today.table
        edges = today.history.edges.numpy()
        is_old = np.random.default_rng(0).random(edges.shape[1]) >= new_share
        began = time.perf_counter()
        power = table.manifest.metrics["tried"][0]["power"]
        sizes = dataset.num_users, dataset.num_items
        found = build(edges[:, is_old], *sizes, powers=(0.5, power))
        seconds = time.perf_counter() - began
        least = table.manifest.config["min_people"]
        people = np.bincount(edges[1, is_old], minlength=dataset.num_items)
        arrays = {
            "starts": found.starts,
            "targets": found.targets,
            "weights": found.weights,
            "bounds": lower_bounds(found.num_people, least),
            "item_bounds": lower_bounds(people, least),
        }
        history = SeenItems(torch.from_numpy(edges[:, is_old]))
        yesterday = replace(today, table=replace(table, arrays=arrays), history=history)
        users, items = recommended_pairs(config, dataset)
        before = yesterday.of(users, items)
        after = today.of(users, items, before.items)
        is_same = (before.kinds == after.kinds) & (before.items == after.items)
        is_same &= before.at_least == after.at_least
        row: Record = {"workspace": workspace, "new": new_share, "pairs": len(users)}
        row |= {"rewritten": round(float(1 - is_same.mean()), 4), "build s": round(seconds, 1)}
        rows.append(row)
        Results(output).append("night", row)
    write_tables(output, "night", {"A night": rows})


@app.command("build")
def build_at_sizes(
    sizes: Annotated[list[int], typer.Argument(help="Numbers of interactions, e.g. 1000000.")],
    output: Output = BENCHMARKS / "neighbors",
) -> None:
    """Seconds and memory of a build of interactions by Zipf: 20 of each user, 200 of each item."""
    rows = []
    for size in sizes:
        num_users, num_items = max(1, size // 20), max(2, size // 200)
        draw = np.random.default_rng(0)
        items = draw.permutation(num_items)[(draw.zipf(1.2, size) - 1) % num_items]
        keys = np.unique(draw.integers(0, num_users, size) * num_items + items)
        forget_peak()
        began = time.perf_counter()
        found = build(np.stack([keys // num_items, keys % num_items]), num_users, num_items)
        seconds = time.perf_counter() - began
        row: Record = {"interactions": len(keys), "users": num_users, "items": num_items}
        row |= {"pairs": len(found.targets), "seconds": round(seconds, 1)}
        rows.append(row | {"peak GiB": round(peak_mb() / 1024, 2)})
        Results(output).append("build", rows[-1])
    write_tables(output, "build", {"Builds": rows})


def loaded(workspace: str) -> tuple[RecommendConfig, Dataset, Reasons]:
    """Return what a workspace has; no item is excluded, and none has a category."""
    config = parse_config(RecommendConfig, {"workspace": workspace})
    dataset = read_dataset(location_of(config, "dataset"))
    graph, table = read_graph_if_any(config, dataset), read_neighbors(config)
    assert table is not None
    size = dataset.num_items
    nothing = np.zeros(size, bool), np.full(size, "", object)
    return config, dataset, reasons_of(dataset, graph, table, *nothing)


def recommended_pairs(config: RecommendConfig, dataset: Dataset) -> tuple[Ints, Ints]:
    """Return users and items (N,) of all recommendations, by user."""
    rows = pa.concat_tables(read_recommendations(location_of(config, "recommendations")))
    users, items = dataset.user_ids.rows(rows["user_id"]), dataset.item_ids.rows(rows["item_id"])
    order = np.lexsort((items, users))
    return users[order], items[order]


def held_out_pairs(dataset: Dataset) -> tuple[Ints, Ints]:
    """Return users and items (N,) of the test interactions, by user."""
    users, items = dataset.interaction_edges("test")
    return np.asarray(users), np.asarray(items)


def coverage(found: Found) -> Record:
    """Return the share of pairs by kind."""
    counts = np.bincount(found.kinds, minlength=len(EVIDENCE_KINDS)) / max(1, len(found.kinds))
    return {
        name: round(float(share), 3) for name, share in zip(EVIDENCE_KINDS, counts, strict=True)
    }


def told_apart(reasons: Reasons, users: Ints, items: Ints, found: Found) -> Record:
    """Return how often two users of an item have different supporting items."""
    of_user = history_by_user(reasons.history, np.unique(users))
    num_people = np.bincount(reasons.history.edges[1].numpy(), minlength=len(reasons.excluded))
    draw = np.random.default_rng(0)
    of_item: dict[int, list[int]] = defaultdict(list)
    for place in np.flatnonzero(found.items >= 0).tolist():
        of_item[int(items[place])].append(place)
    differ = Counter[str]()
    tried = 0
    for places in of_item.values():
        if len(places) < 2:
            continue
        tried += 1
        pair = draw.choice(places, 2, replace=False)
        own = [of_user[int(users[place])] for place in pair]
        differ["told apart"] += found.items[pair[0]] != found.items[pair[1]]
        differ["by random"] += draw.choice(own[0]) != draw.choice(own[1])
        popular = [each[num_people[each].argmax()] for each in own]
        differ["by most popular"] += popular[0] != popular[1]
    names = ("told apart", "by random", "by most popular")
    return {name: round(differ[name] / max(1, tried), 3) for name in names}


def history_by_user(history: SeenItems, users: Ints) -> dict[int, Ints]:
    """Return the history of each user."""
    rows, items = (part.numpy() for part in history.of(torch.from_numpy(users)))
    parts = np.split(items, np.cumsum(np.bincount(rows, minlength=len(users)))[:-1])
    return dict(zip(users.tolist(), parts, strict=True))


def shares(reasons: Reasons, users: Ints, items: Ints, found: Found) -> Record:
    """Return the median share of the supporting item, and the mean one of a random item."""
    named = found.items >= 0
    sizes = np.bincount(reasons.history.edges[0].numpy(), minlength=int(users.max()) + 1)
    return {
        "share": round(float(np.median(found.shares[named])), 3),
        "share of random": round(float(np.median(1 / np.maximum(1, sizes[users[named]]))), 3),
    }


def drops(
    reasons: Reasons,
    users: Ints,
    items: Ints,
    found: Found,
    num_pairs: int,
) -> Record:
    """Return by how many ranks items fall without their supporting item, and without another."""
    draw = np.random.default_rng(0)
    named = np.flatnonzero(found.items >= 0)
    some = np.sort(draw.choice(named, min(num_pairs, len(named)), replace=False))
    drops: dict[str, list[int]] = {"drop": [], "drop of random": []}
    for user, item, support in zip(users[some], items[some], found.items[some], strict=True):
        own = history_by_user(reasons.history, np.array([user]))[int(user)]
        others = own[own != support]
        if not len(others):
            continue
        left_out = (-1, support, draw.choice(others))
        ranks = [rank_of(reasons, own[own != left], own, item) for left in left_out]
        drops["drop"].append(ranks[1] - ranks[0])
        drops["drop of random"].append(ranks[2] - ranks[0])
    return {name: round(float(np.median(values)), 1) for name, values in drops.items()}


def rank_of(reasons: Reasons, history: Ints, known: Ints, item: int) -> int:
    """Return the rank of an item for a history, by fold-in and neighbors, without `known` items."""
    table = reasons.table
    scores = torch.zeros(len(table.item_bounds))
    if reasons.fold_in is not None:
        scores = reasons.fold_in.items @ reasons.fold_in.vector(torch.from_numpy(history))
    starts, targets, weights = (table.arrays[name] for name in ("starts", "targets", "weights"))
    for each in history.tolist():
        own = slice(starts[each], starts[each + 1])
        added = torch.from_numpy(np.float32(table.weight) * weights[own])
        scores.index_add_(0, torch.from_numpy(targets[own].astype(np.int64)), added)
    is_other = torch.ones(len(scores), dtype=torch.bool)
    is_other[torch.from_numpy(known)] = False
    return int((scores[is_other] > scores[item]).sum()) + 1


def truth(dataset: Dataset, users: Ints, items: Ints, found: Found) -> float:
    """Return the share of bounds that hold by a recount of the interactions in SQL."""
    has = np.flatnonzero(found.at_least > 0)
    claims = pa.table(
        {
            "u": users[has],
            "i": items[has],
            "j": found.items[has],
            "kind": found.kinds[has],
            "least": found.at_least[has],
        }
    )
    database = duckdb.connect()
    database.register("interactions", dataset.interactions)
    database.register("claims", claims)
    database.execute(
        "CREATE TABLE train AS SELECT user_index u, item_index i FROM interactions "
        "WHERE split = 'train'"
    )
    if dataset.dislikes is not None:
        database.register("dislikes", dataset.dislikes)
        database.execute(
            "DELETE FROM train WHERE (u, i) IN (SELECT (user_index, item_index) FROM dislikes)"
        )
    (row,) = database.execute(
        f"""
        WITH wanted AS (SELECT DISTINCT i, j FROM claims WHERE kind = {OTHERS}),
        shared AS (
            SELECT w.i, w.j, count(*) n FROM wanted w JOIN train a ON a.i = w.i
            JOIN train b ON b.i = w.j AND b.u = a.u GROUP BY ALL
        ),
        alone AS (SELECT i, count(*) n FROM train GROUP BY i)
        SELECT avg((coalesce(shared.n, alone.n) - (own.u IS NOT NULL)::int >= c.least)::int),
            count(*)
        FROM claims c LEFT JOIN train own ON own.u = c.u AND own.i = c.i
        LEFT JOIN shared ON c.kind = {OTHERS} AND shared.i = c.i AND shared.j = c.j
        LEFT JOIN alone ON c.kind = {POPULAR} AND alone.i = c.i
        """
    ).fetchall()
    assert row[1] == len(has)
    return round(float(row[0]), 6)


if __name__ == "__main__":
    app()
