"""The whole job on a Ray cluster: trained by two workers, texts by an actor, nothing twice."""

import json
from pathlib import Path
from typing import Any

import pytest

import jobs.peer
from tests.xrec.lab.baselines.conftest import MakePeerConfig
from xrec.backfill import read_explanations
from xrec.errors import ArtifactMismatchError, TrainingError
from xrec.lab.baselines import train_peer
from xrec.lab.baselines.artifact import read_peer
from xrec.lab.baselines.trainer import PeerTrainer
from xrec.storage import location_of

pytestmark = pytest.mark.usefixtures("ray_cluster")

TRAINING = {"num_epochs": 2}


def test_job_trains_and_writes_once(
    make_config: MakePeerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = {"device": "cpu", "num_workers": 2}
    config = make_config(training=TRAINING, scaling=workers)
    manifest = jobs.peer.run(config)
    assert manifest.row_counts["explanations"] == 10
    peer = read_peer(location_of(config, "peer"))
    metrics = peer.manifest.metrics
    assert metrics["num_trained_parameters"] == sum(
        each.numel() for each in peer.model.parameters()
    )
    assert (metrics["num_epochs"], metrics["num_train_pairs"]) == (2, 20)
    history = json.loads((location_of(config, "peer") / "history.json").read_text())
    assert metrics["validation_loss"] == min(row["validation_loss"] for row in history)
    assert metrics["training_seconds"] == pytest.approx(sum(row["seconds"] for row in history))
    assert not (location_of(config, "peer") / "checkpoints").exists()
    assert read_explanations(config.artifact("explanations")).num_rows == 10
    assert jobs.peer.output(config).found().state == "same"

    def no_ray(*arguments: object) -> None:
        raise AssertionError("a cluster was asked for")

    monkeypatch.setattr(jobs.peer, "ensure_ray", no_ray)
    assert jobs.peer.run(config) == manifest
    other = make_config(training={"num_epochs": 3}, scaling=workers)
    with pytest.raises(ArtifactMismatchError, match=r"training\.num_epochs: 2 there, 3 here"):
        jobs.peer.run(other)


@pytest.mark.slow
def test_training_that_was_stopped_goes_on_from_its_last_epoch(
    make_config: MakePeerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker fails in the second epoch; the next start makes that epoch, and no other."""
    config = make_config(training=TRAINING)
    broken = tmp_path / "broken"
    broken.touch()
    ran = tmp_path / "epochs"

    def train_worker(loop_config: dict[str, Any]) -> None:
        from xrec.lab.baselines import train

        run_epoch = PeerTrainer.run_epoch

        def failing(trainer: PeerTrainer) -> dict[str, Any]:
            with ran.open("a") as file:
                file.write(f"{trainer.progress.epoch} ")
            if trainer.progress.epoch == 2 and broken.exists():
                raise TrainingError("out of luck")
            return run_epoch(trainer)

        PeerTrainer.run_epoch = failing  # type: ignore[method-assign]
        train.train_worker(loop_config)

    monkeypatch.setattr("xrec.lab.baselines.train.train_worker", train_worker)
    with pytest.raises(TrainingError, match="out of luck"):
        train_peer(config)
    broken.unlink()
    manifest = train_peer(config)
    assert ran.read_text().split() == ["1", "2", "2"]
    assert manifest.metrics["num_epochs"] == 2
