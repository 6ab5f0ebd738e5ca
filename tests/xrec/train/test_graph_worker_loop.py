"""A worker's training: the same loss, step by step, for any number of workers, in either mode, with either loss."""

from pathlib import Path
from typing import Any

import pytest

from xrec.config.graph import PretrainGraphConfig
from xrec.config.shared import ScalingConfig
from xrec.errors import TrainingError
from xrec.storage import open_location
from xrec.train.graph_worker_loop import check_convergence
from xrec.train.ray_loop import fit

NUM_STEPS = 20
SOFTMAX = {
    "training": {"learning_rate": 0.05}
}  # gradients of norms above 1, which DeepSpeed would clip
BPR = {
    "training": {
        "loss": {"kind": "bpr"},
        "warmup_steps": 5,
        "l2_weight": 1e-2,
        "learning_rate": 0.05,
    },
    "model": {"initialization": "random"},
}
# Replicated first: what DeepSpeed is told of partitioned workers stays in the process.
CASES = [(mode, settings) for mode in ("replicated", "partitioned") for settings in (SOFTMAX, BPR)]


def losses_by_step(loop_config: dict[str, Any]) -> None:
    """Each config for 20 epochs of one step, in this worker; reports all losses."""
    from xrec.data.dataset import read_dataset
    from xrec.storage import open_location
    from xrec.train.graph_data import split_edges
    from xrec.train.graph_worker_loop import GraphWorker
    from xrec.train.worker_loop import report

    losses = []
    for config in loop_config["configs"]:
        dataset = read_dataset(open_location(config.artifact("dataset")))
        worker = GraphWorker(
            config, split_edges(dataset, "train"), dataset.num_users, dataset.num_items, "run"
        )
        losses.append(
            [worker.train_epoch(epoch)[0] for epoch in range(1, loop_config["num_steps"] + 1)]
        )
    report({"epoch": 1, "losses": losses}, {"none": b""})


def run(workspace: str, folder: Path, num_workers: int) -> list[list[float]]:
    configs = [_config(workspace, mode, settings) for mode, settings in CASES]
    outcome = fit(
        losses_by_step,
        {"configs": configs, "num_steps": NUM_STEPS},
        scaling=ScalingConfig(num_workers=num_workers, device="cpu", max_failures=0),
        storage=open_location(str(folder)),
        name="losses",
    )
    losses: list[list[float]] = outcome.metrics["losses"]
    return losses


def _config(workspace: str, parallelism: str, settings: dict[str, Any]) -> PretrainGraphConfig:
    training = {
        "num_epochs": NUM_STEPS,
        "steps_per_epoch": 1,
        "micro_batch_size": 31,
        **settings["training"],
    }
    model = {"embedding_dim": 8, **settings.get("model", {})}
    return PretrainGraphConfig.model_validate(
        {"workspace": workspace, "parallelism": parallelism, "model": model, "training": training}
    )


@pytest.fixture(scope="module")
def one_worker(
    ray_cluster: None, town: str, tmp_path_factory: pytest.TempPathFactory
) -> list[list[float]]:
    return run(town, tmp_path_factory.mktemp("one"), 1)


def test_loss_of_one_worker_falls_and_no_mode_changes_it(one_worker: list[list[float]]) -> None:
    softmax, bpr, partitioned_softmax, partitioned_bpr = one_worker
    assert len(softmax) == NUM_STEPS
    assert softmax[-1] < softmax[0]
    assert bpr[-1] < bpr[0]
    assert partitioned_softmax == pytest.approx(softmax, rel=1e-6)
    assert partitioned_bpr == pytest.approx(bpr, rel=1e-6)


@pytest.mark.parametrize("num_workers", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_loss_at_each_step_is_that_of_one_worker(
    one_worker: list[list[float]], town: str, tmp_path: Path, num_workers: int
) -> None:
    for (mode, settings), losses, alone in zip(
        CASES, run(town, tmp_path, num_workers), one_worker, strict=True
    ):
        assert losses == pytest.approx(alone, rel=1e-4), (mode, settings)


def test_loss_far_above_the_first_epochs_stops_training() -> None:
    check_convergence(7, loss=1.4, first_loss=0.7)
    with pytest.raises(
        TrainingError,
        match=r"loss of epoch 7 is 2\.8000, that of epoch 1 was 0\.7000.*training\.learning_rate",
    ):
        check_convergence(7, loss=2.8, first_loss=0.7)
