"""The whole of it on a Ray cluster: trained by two workers, texts by an actor, nothing twice."""

import json
from dataclasses import replace
from typing import Any

import pytest

from xrec.config.shared import ScalingConfig
from xrec.errors import ArtifactMismatchError, TrainingError
from xrec.lab.baselines.artifact import read_baseline
from xrec.lab.baselines.texts import write_baseline_texts
from xrec.lab.baselines.train import train_baseline
from xrec.lab.baselines.trainer import BaselineTrainer

# tests/jobs/test_compare.py trains one with one worker, and test_trainer.py with two in threads.
pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow]


def test_training_that_was_stopped_goes_on_and_is_done_once(make_baseline, tmp_path, monkeypatch):
    """The workers fail in the second epoch; the next start makes that epoch, and no other."""
    scaling = ScalingConfig(device="cpu", num_workers=2)
    baseline = make_baseline(recipe={"num_epochs": 2}, scaling=scaling)
    broken = tmp_path / "broken"
    broken.touch()
    ran = tmp_path / "epochs"

    def train_worker(loop_config: dict[str, Any]) -> None:
        from xrec.lab.baselines import train

        run_epoch = BaselineTrainer.run_epoch

        def failing(trainer: BaselineTrainer) -> dict[str, Any]:
            if train.rank() == 0:
                with ran.open("a") as file:
                    file.write(f"{trainer.progress.epoch} ")
            if trainer.progress.epoch == 2 and broken.exists():
                raise TrainingError("out of luck")
            return run_epoch(trainer)

        BaselineTrainer.run_epoch = failing
        train.train_worker(loop_config)

    with monkeypatch.context() as patch:
        patch.setattr("xrec.lab.baselines.train.train_worker", train_worker)
        with pytest.raises(TrainingError, match="out of luck"):
            train_baseline(baseline)
        broken.unlink()
        manifest = train_baseline(baseline)
    assert ran.read_text().split() == ["1", "2", "2"]
    whole = train_baseline(replace(baseline, output=str(tmp_path / "whole")))
    assert manifest.files == whole.files
    metrics, parameters = manifest.metrics, read_baseline(baseline).model.parameters()
    assert metrics["num_trained_parameters"] == sum(each.numel() for each in parameters)
    assert (metrics["num_epochs"], manifest.row_counts["train"]) == (2, 20)
    history = json.loads((baseline.model / "history.json").read_text())
    assert metrics["validation_loss"] == min(row["validation_loss"] for row in history)
    assert metrics["training_seconds"] == pytest.approx(sum(row["seconds"] for row in history))
    assert not (baseline.model / "checkpoints").exists()
    assert len(write_baseline_texts(baseline, [(0, 3), (1, 4)])[0]) == 2
    monkeypatch.setattr("xrec.lab.baselines.train.fit", None)
    assert train_baseline(baseline) == manifest
    with pytest.raises(ArtifactMismatchError, match=r"recipe\.num_epochs: 2 there, 3 here"):
        train_baseline(make_baseline(recipe={"num_epochs": 3}))
