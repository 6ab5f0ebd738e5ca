"""The benchmark of planted taste."""

import json

import numpy as np
import pytest

import benchmarks.planted as planted
from benchmarks.planted_data import UNSEEN_PAIRS, UNSEEN_USERS, Town, seen_pairs
from tests.world.workspace import SOURCE
from tests.xrec.train.adapter_town import make_config
from xrec.data import read_dataset
from xrec.storage import open_location


def test_seen_pairs_and_scored_pairs_share_no_user_or_no_pair(workspace):
    town = Town.read(make_config(str(workspace), num_workers=1))
    unseen, scored = town.unseen(1), town.scored(1, most=1000)
    assert len(unseen) == SOURCE["num_users"] // 5
    for split in ("train", "validation"):
        rows = town.dataset.explained_pairs(split).to_pylist()
        kept = seen_pairs(town.config, town.dataset, split, unseen=unseen)
        assert 0 < kept.num_rows < len(rows)
        assert kept.to_pylist() == [row for row in rows if row["user_index"] not in unseen]
    assert {pair.user_index for pair in scored[UNSEEN_USERS]} <= unseen
    assert not {pair.user_index for pair in scored[UNSEEN_PAIRS]} & unseen
    edges = set(zip(*town.dataset.interaction_edges("train").tolist(), strict=True))
    for pairs in scored.values():
        assert pairs
        assert not {(pair.user_index, pair.item_index) for pair in pairs} & edges


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_planted_trains_an_adapter_of_the_seen_users_and_writes_the_table(workspace, run, tmp_path):
    training = {"num_epochs": 1, "global_batch_size": 16, "micro_batch_size": 8}
    arguments = [f"train-adapter.training.{name}={value}" for name, value in training.items()]
    arguments += ["train-adapter.workers.num_processes=1"]
    names, options = ["constant", "text-favourite"], {"workspace": workspace, "seed": 0}
    rows = run(planted.app, *arguments, variant=names, max_scored=6, **options)["Planted"]
    assert [(row["pairs"], row["variant"]) for row in rows] == [
        (kind, name) for kind in (UNSEEN_PAIRS, UNSEEN_USERS) for name in names
    ]
    (epoch,) = json.loads((tmp_path / "out/constant-0/history.json").read_text())
    assert np.isfinite(epoch["validation_loss"])
    dataset = read_dataset(open_location(f"{workspace}/dataset"))
    assert epoch["num_train_pairs"] < 0.9 * dataset.explained_pairs("train").num_rows
