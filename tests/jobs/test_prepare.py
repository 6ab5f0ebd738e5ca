"""The job: config in, dataset artifact out."""

from pathlib import Path

from jobs.prepare import run
from xrec.config.data import PrepareConfig
from xrec.config.project import load_config
from xrec.data import read_dataset
from xrec.sample import ASPECTS
from xrec.storage import open_location

CONFIGS = Path(__file__).parents[2] / "configs"


def test_run_sample_config_gives_the_town_as_a_dataset(tmp_path: Path) -> None:
    config = load_config(PrepareConfig, CONFIGS / "sample.yaml", [f"workspace={tmp_path}"])
    manifest = run(config)
    dataset = read_dataset(open_location(config.artifact("dataset")))
    assert dataset.manifest == manifest
    assert (dataset.num_users, dataset.num_items) == (1200, 240)
    assert manifest.metrics["num_removed_edges"] == 0
    assert manifest.metrics["num_users_without_train_edge"] == 0
    assert dataset.aspects is not None
    assert dataset.item_aspects is not None
    names = dataset.aspects["aspect"].to_pylist()
    assert set(names) == set(ASPECTS)
    profiles = dataset.items["profile"].to_pylist()
    for row in dataset.item_aspects.to_pylist():  # what its visitors praise is what a place has
        assert names[row["aspect_index"]] in profiles[row["item_index"]].lower()
    # Each training visit mentions one aspect, and nothing of a held-out one is counted.
    num_visits = dataset.interaction_edges("train").shape[1]
    assert sum(dataset.aspects["num_reviews"].to_pylist()) == num_visits
    assert num_visits < dataset.interactions.num_rows
