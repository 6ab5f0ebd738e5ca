"""Graph pretraining goes on after kill -9 of a worker, as if unbroken."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.world.cluster import training_workers
from tests.world.program import at_message
from tests.xrec.train.conftest import assert_same_epochs, metrics_of
from xrec.errors import TrainingError
from xrec.storage import Manifest
from xrec.train.graph import pretrain_graph

pytestmark = pytest.mark.slow

EPOCHS: dict[str, Any] = {"num_epochs": 12, "patience": 12, "epochs_per_checkpoint": 2}
KILLED_AT = "epoch 5: loss"
Unbroken = tuple[Manifest, list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def log_level(caplog):
    """Have the driver's messages logged, at one of which a worker is killed."""
    caplog.set_level("INFO", logger="xrec")


@pytest.fixture(scope="module")
def unbroken(ray_cluster, tmp_path_factory, make_graph_config):
    """One worker's twelve epochs without a break."""
    folder = tmp_path_factory.mktemp("unbroken") / "graph"
    return pretrain_graph(make_graph_config(folder, **EPOCHS)), metrics_of(folder)


def assert_same(folder: Path, unbroken: Unbroken, stopped: float) -> None:
    """Compare with the unbroken run; epochs up to the checkpoint are of before `stopped`."""
    expected_manifest, expected = unbroken
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_text())
    rows = metrics_of(folder)
    assert [row["epoch"] for row in rows] == list(range(1, 13))
    assert all(row["time"] < stopped for row in rows[:4])  # not trained again
    assert_same_epochs(rows, expected)
    assert manifest.run == expected_manifest.run
    for split in ("validation", "test"):
        for name in ("recall@20", "ndcg@20"):
            value = expected_manifest.metrics[split][name]
            assert manifest.metrics[split][name] == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2, "replicated", 1), None),  # the worker is replaced
        ((1, "replicated"), (3, "partitioned")),
        ((2, "partitioned"), (2, "replicated")),
    ],
)
def test_run_whose_worker_was_killed_goes_on_from_the_checkpoint_in_any_mode(
    unbroken, make_graph_config, tmp_path, before, after
):
    stopped: list[float] = []

    def kill() -> None:
        stopped.append(time.time())
        training_workers(psutil.Process())[-1].kill()

    lost = pytest.raises(TrainingError) if after else nullcontext()
    with at_message(KILLED_AT, kill), lost:
        pretrain_graph(make_graph_config(tmp_path, *before, **EPOCHS))
    if after:
        pretrain_graph(make_graph_config(tmp_path, *after, **EPOCHS))
    assert_same(tmp_path, unbroken, stopped[0])
