"""The planted benchmark: who is unseen, what profiles state, what is trained, and its figures."""

import json
from typing import Any

import numpy as np
import pytest

import benchmarks.planted as planted
from benchmarks.planted_data import (
    UNSEEN_PAIRS,
    UNSEEN_USERS,
    StatedTaste,
    Town,
    seen_pairs,
)
from tests.world.workspace import SOURCE
from tests.xrec.train.adapter_town import make_config
from xrec.adapter.pairs import Pair
from xrec.data.dataset import read_dataset
from xrec.storage import open_location


@pytest.fixture(scope="module")
def town(workspace):
    return Town.read(make_config(str(workspace), num_workers=1))


def test_seen_pairs_are_those_whose_users_are_seen(town):
    unseen = town.unseen(1)
    assert len(unseen) == SOURCE["num_users"] // 5
    for split in ("train", "validation"):
        rows = town.dataset.explained_pairs(split).to_pylist()
        kept = seen_pairs(town.config, town.dataset, split, unseen=unseen)
        assert 0 < kept.num_rows < len(rows)
        assert kept.to_pylist() == [row for row in rows if row["user_index"] not in unseen]


def test_scored_pairs_are_held_out_and_of_the_kinds_that_they_say(town):
    unseen, scored = town.unseen(1), town.scored(1, most=1000)
    assert {pair.user_index for pair in scored[UNSEEN_USERS]} <= unseen
    assert not {pair.user_index for pair in scored[UNSEEN_PAIRS]} & unseen
    edges = set(zip(*town.dataset.interaction_edges("train").tolist(), strict=True))
    for pairs in scored.values():
        assert pairs
        assert not {(pair.user_index, pair.item_index) for pair in pairs} & edges


def test_stated_taste_is_the_right_aspect_wherever_the_item_has_it(town):
    prompts = town.explainer("text-favourite", 0, "").pairs
    assert isinstance(prompts, StatedTaste)
    planted_pairs = town.dataset.planted.to_pylist()
    for row in planted_pairs:
        favourite = town.favourites[row["user_index"]]
        assert favourite not in row["aspects"] or favourite == row["aspect"]
        shown = prompts.builder.show(prompts.prompt(Pair(row["user_index"], row["item_index"])))
        assert favourite in shown
        assert "<user" not in shown
    assert any(town.favourites[row["user_index"]] in row["aspects"] for row in planted_pairs)


def _scores(*seeds: list[bool]) -> list[dict[str, Any]]:
    return [
        {
            kind: {
                "user_id": [f"user-{index // 2}" for index in range(len(right))],
                "right": right,
                "right_shuffled": [False] * len(right),
                "nll": [1.0] * len(right),
                "nll_shuffled": [1.5] * len(right),
                "chance": 0.25,
            }
            for kind in (UNSEEN_PAIRS, UNSEEN_USERS)
        }
        for right in seeds
    ]


def test_table_pools_the_seeds_and_pairs_each_variant_with_the_constant():
    found = {
        "constant": _scores([True, False, False, False], [False, False, True, True]),
        "projected": _scores([True, True, True, False], [True, True, True, True]),
    }
    rows = [row for row in planted.table(found) if row["pairs"] == UNSEEN_USERS]
    constant, projected = rows
    assert (projected["scored"], projected["by seed"]) == (8, "0.750, 1.000")
    assert projected["aspect accuracy"].startswith("0.875 (")
    # The first user gains 3 of 4, the second 1 of 4: a standard error of 0.25, t is 12.706.
    assert projected["minus constant"] == "0.500 (-2.677 to 3.677)"
    assert projected["gain"] == "0.500 (0.500 to 0.500)"
    assert (projected["another user's"], projected["chance"]) == ("0.000 (0.000 to 0.000)", 0.25)
    assert constant["minus constant"] == ""


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_planted_trains_an_adapter_of_the_seen_users_and_writes_the_table(workspace, run, tmp_path):
    training = {"num_epochs": 1, "global_batch_size": 16, "micro_batch_size": 8}
    arguments = [f"train-adapter.training.{name}={value}" for name, value in training.items()]
    arguments += ["train-adapter.scaling.num_workers=1"]
    names, options = ["constant", "text-favourite"], {"workspace": workspace, "seed": 0}
    rows = run(planted.app, *arguments, variant=names, max_scored=6, **options)["Planted"]
    assert [(row["pairs"], row["variant"]) for row in rows] == [
        (kind, name) for kind in (UNSEEN_PAIRS, UNSEEN_USERS) for name in names
    ]
    (epoch,) = json.loads((tmp_path / "out/constant-0/history.json").read_text())
    assert np.isfinite(epoch["validation_loss"])
    dataset = read_dataset(open_location(f"{workspace}/dataset"))
    assert epoch["num_train_pairs"] < 0.9 * dataset.explained_pairs("train").num_rows
