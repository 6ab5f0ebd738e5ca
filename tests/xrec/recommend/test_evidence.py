"""Runs with neighbors: every reason is counted again from the raw interactions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from tests.errors import raises
from tests.world.here import map_here
from tests.world.shop import with_uris
from tests.world.town import make_dataset, pair_rows
from tests.world.workspace import save_graph
from xrec.config import NeighborsConfig, RecommendConfig, parse_config
from xrec.errors import ArtifactMismatchError
from xrec.jobs.neighbors import run as run_neighbors
from xrec.recommend import identify, read_recommendations
from xrec.recommend.ranking import recommend
from xrec.storage import Manifest, location_of

NUM_USERS, NUM_ITEMS, DIM = 80, 20, 4


class Shop:
    """Interactions of three splits and dislikes, in a workspace with or without a graph."""

    def __init__(self, workspace: Path, *, has_graph: bool = True, seed: int = 0):
        draw, self.workspace = np.random.default_rng(seed), workspace
        chosen = draw.random((NUM_USERS, NUM_ITEMS)) < 0.1 + 0.5 * draw.random(NUM_ITEMS) ** 2
        split = draw.choice(["train", "validation", "test"], chosen.shape, p=[0.7, 0.15, 0.15])
        pairs = [(*pair, str(split[tuple(pair)])) for pair in np.argwhere(chosen).tolist()]
        disliked = [pair for *pair, split in pairs if split == "train" and draw.random() < 0.1]
        users = [{"user_id": f"u{n}", "profile": ""} for n in range(NUM_USERS)]
        items = [{"item_id": f"i{n}", "title": f"T{n}", "profile": ""} for n in range(NUM_ITEMS)]
        rows = [row for *pair, split in pairs for row in pair_rows(pair, split=split)]
        tables = {"users": users, "items": items, "interactions": rows, "explanations": []}
        dataset = make_dataset(workspace, **tables, dislikes=pair_rows(*disliked))
        self.known = chosen
        self.history = chosen & (split == "train")
        """Who chose what and did not dislike it, by training interactions, (U, I) bool."""
        self.history[tuple(zip(*disliked, strict=True))] = False
        if has_graph:
            generator = torch.Generator().manual_seed(seed)
            vectors = [torch.randn(n, DIM, generator=generator) for n in (NUM_USERS, NUM_ITEMS)]
            save_graph(workspace / "graph", *vectors, dataset)

    def neighbors(self, **values: Any) -> Manifest:
        config = {"workspace": str(self.workspace), **values}
        return run_neighbors(parse_config(NeighborsConfig, config))

    def run(
        self, name: str = "recommendations", *, min_people: int = 5, **values: Any
    ) -> list[dict[str, Any]]:
        """Make neighbors and recommendations; return the rows."""
        self.neighbors(min_people=min_people)
        for key, header in (("unnamed", "item_id"), ("categories", "item_id,category")):
            if lines := values.pop(key, ()):
                path = self.workspace / f"{name}-{key}.csv"
                path.write_text("\n".join([header, *lines]))
                values[key] = str(path)
        uris = {"workspace": str(self.workspace), "recommendations": str(self.workspace / name)}
        config = parse_config(RecommendConfig, with_uris({"k": 5, **uris, **values}))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("xrec.processes.map_in_processes", map_here)
            self.manifest = recommend(config, users_per_part=23)
        parts = read_recommendations(location_of(config, "recommendations"))
        return [row for part in parts for row in part.to_pylist()]


def step_of(number: int, least: int) -> int:
    """Return the step below a number of people, which is all that may be shown of it."""
    return max(step for step in (least, 5, 10, 20, 50) if least <= step <= number)


def numbers_of(row: Mapping[str, Any]) -> tuple[int, int, int | None]:
    support = row["evidence_item_id"]
    return int(row["user_id"][1:]), int(row["item_id"][1:]), support and int(support[1:])


@pytest.mark.parametrize(("has_graph", "least"), [(True, 3), (True, 5), (False, 5)])
def test_every_reason_is_true_of_others_by_training_interactions_alone(tmp_path, has_graph, least):
    shop = Shop(tmp_path, has_graph=has_graph)
    categories = ["i99,cakes", *(f"i{n},{'teas' if n % 2 else ''}" for n in range(NUM_ITEMS))]
    rows = shop.run(min_people=least, unnamed=["i3"], categories=categories)
    history = shop.history
    assert {row["evidence_kind"] for row in rows} >= {"others", "history", "category", "popular"}
    for row in rows:
        user, item, support = numbers_of(row)
        others = np.delete(history, user, axis=0)
        assert not shop.known[user, item]
        number = row["evidence_at_least"]
        if row["evidence_kind"] in ("others", "history"):
            assert history[user, support]
            assert support not in (item, 3)
        else:
            assert support is None
        is_by_category = row["evidence_kind"] == "category"
        assert row["evidence_category"] == ("teas" if is_by_category else None)
        if is_by_category:
            assert item % 2
            assert history[user, [n for n in range(1, NUM_ITEMS, 2) if n != 3]].sum() >= 2
        if row["evidence_kind"] == "others":
            assert number == step_of((others[:, support] & others[:, item]).sum(), least)
        elif row["evidence_kind"] == "popular":
            assert number == step_of(others[:, item].sum(), least)
        else:
            assert number is None
    assert set(shop.manifest.inputs) - {"graph"} >= {"dataset", "neighbors"}
    assert ("graph" in shop.manifest.inputs) == has_graph


def test_without_a_graph_neighbors_alone_rank(tmp_path):
    shop = Shop(tmp_path, has_graph=False)
    rows, history = shop.run(), shop.history.astype(float)
    people, items = history.sum(1), history.sum(0)
    weights = (history / people[:, None].clip(1)).T @ history
    power = shop.neighbors().metrics["tried"][0]["power"]
    weights /= np.sqrt(items.clip(1))[:, None] * items.clip(1)[None] ** power
    np.fill_diagonal(weights, 0)
    scores = np.where(shop.known, -np.inf, history @ weights)
    for user in range(NUM_USERS):
        best = [int(row["item_id"][1:]) for row in rows if row["user_id"] == f"u{user}"]
        assert scores[user, best] == pytest.approx(np.sort(scores[user])[::-1][:5], rel=1e-4)


def test_published_score_has_two_digits_and_a_pair_keeps_its_item(tmp_path):
    shop = Shop(tmp_path)
    rows = shop.run(min_people=3)
    assert all(row["score"] == pytest.approx(float(f"{row['score']:.1e}")) for row in rows)
    named = {row["evidence_item_id"] for row in rows} - {None}
    other = shop.run("others", min_people=3, unnamed=sorted(named)[:4])
    kept = shop.run("kept", min_people=3, keeps=str(tmp_path / "others"))
    changed = [
        (mine["evidence_item_id"], theirs["evidence_item_id"], first["evidence_item_id"])
        for mine, theirs, first in zip(kept, other, rows, strict=True)
        if theirs["evidence_kind"] == "others"
        and theirs["evidence_item_id"] != first["evidence_item_id"]
    ]
    # The item that was shown last stays if its share is still at least half of the largest one.
    assert sum(mine == theirs != first for mine, theirs, first in changed) > len(changed) / 3 > 0


def test_neighbors_of_another_dataset_are_refused(tmp_path):
    Shop(tmp_path / "one").neighbors()
    other = Shop(tmp_path / "two", seed=1)
    values = {"workspace": str(other.workspace), "neighbors": str(tmp_path / "one/neighbors")}
    config = parse_config(RecommendConfig, with_uris({"k": 5, **values}))
    with raises(ArtifactMismatchError, "other_inputs", "neighbors"):
        identify(config)


def test_no_exact_number_of_people_is_in_a_file_or_in_the_log(tmp_path, caplog):
    caplog.set_level("INFO", "xrec")
    manifest = Shop(tmp_path).neighbors()
    arrays = safetensors.numpy.load_file(tmp_path / "neighbors" / "neighbors.safetensors")
    assert {*arrays} == {"starts", "targets", "weights", "bounds", "item_bounds"}
    for name in ("bounds", "item_bounds"):
        assert {*arrays[name].tolist()} <= {0, 5, 10, 20, 50, 100}
    (line,) = [each for each in caplog.messages if each.startswith("neighbors")]
    num_pairs = len(arrays["targets"])
    weight = manifest.metrics["weight"]
    assert line == f"neighbors: {num_pairs} pairs of items, weight {weight:.3g}"
