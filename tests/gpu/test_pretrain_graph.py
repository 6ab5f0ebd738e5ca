"""Graph pretraining on a GPU in both modes: losses and metrics are those of a CPU."""

from pathlib import Path
from typing import Any

import pytest

from tests.xrec.train.conftest import metrics_of
from xrec.config.graph import PretrainGraphConfig
from xrec.train.graph import pretrain_graph

pytestmark = pytest.mark.usefixtures("ray_cluster")

LOSSES = {"softmax": {"kind": "sampled_softmax"}, "bpr": {"kind": "bpr"}}


def train(
    town: str, graph: Path, device: str, *, parallelism: str, num_workers: int, loss: str
) -> list[dict[str, Any]]:
    """Train for 4 epochs and return their rows."""
    config = PretrainGraphConfig.model_validate(
        {
            "workspace": town,
            "graph": str(graph),
            "model": {"embedding_dim": 8, "num_layers": 2},
            "training": {
                "num_epochs": 4,
                "steps_per_epoch": 4,
                "micro_batch_size": 31,
                "learning_rate": 0.05,
                "loss": LOSSES[loss],
                "l2_weight": 1e-2,
            },
            "parallelism": parallelism,
            "folds": 0,
            "scaling": {"num_workers": num_workers, "device": device, "max_failures": 0},
        }
    )
    pretrain_graph(config)
    return metrics_of(graph)


def assert_same(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(rows) == 4
    for row, other in zip(rows, expected, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-3)
        # A near tie may change places.
        assert row["ndcg@20"] == pytest.approx(other["ndcg@20"], abs=0.02)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("parallelism", ["replicated", "partitioned"])
def test_one_worker_has_the_losses_of_a_cpu(town, tmp_path, device, parallelism, loss):
    settings = {"num_workers": 1, "loss": loss}
    expected = train(town, tmp_path / "cpu", "cpu", parallelism="replicated", **settings)
    assert_same(
        train(town, tmp_path / "one", device, parallelism=parallelism, **settings), expected
    )


@pytest.mark.usefixtures("skip_without_gpus")
@pytest.mark.parametrize("parallelism", ["replicated", "partitioned"])
def test_two_workers_have_the_losses_of_one_on_a_cpu(town, tmp_path, device, parallelism):
    expected = train(
        town, tmp_path / "one", "cpu", parallelism="replicated", num_workers=1, loss="softmax"
    )
    rows = train(
        town, tmp_path / "two", device, parallelism=parallelism, num_workers=2, loss="softmax"
    )
    assert_same(rows, expected)
