"""The job: config in, dataset artifact out."""

from pathlib import Path

from jobs.prepare import run
from xrec.config.data import PrepareConfig
from xrec.config.project import load_config
from xrec.data import read_dataset
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
