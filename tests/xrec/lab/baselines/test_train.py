"""A baseline from its dataset to its artifact; tests/jobs/test_compare.py trains one on Ray."""

import json

import pytest
import torch

from xrec.errors import ArtifactMismatchError
from xrec.lab.baselines.artifact import build_model, read_baseline
from xrec.lab.baselines.data import build_data
from xrec.lab.baselines.train import _load_trainer, train_baseline
from xrec.lab.baselines.trainer import BaselineTrainer


@pytest.mark.usefixtures("processes_here")
def test_training_keeps_the_best_epoch_and_is_done_once(make_baseline, dataset, monkeypatch):
    recipe = {"optimizer": "AdamW", "learning_rate": 0.05, "num_epochs": 30, "patience": 2}
    baseline = make_baseline(recipe=recipe)
    manifest = train_baseline(baseline)
    data = build_data(baseline, dataset)
    trainer = BaselineTrainer(build_model(baseline, data.sizes), data, baseline.recipe, seed=0)
    while not trainer.has_finished:
        trainer.run_epoch()
    history = json.loads((baseline.model / "history.json").read_text())
    losses = [row["validation_loss"] for row in trainer.history]
    assert [row["validation_loss"] for row in history] == losses
    metrics, model = manifest.metrics, read_baseline(baseline).model
    assert metrics["num_epochs"] == len(history) < 30
    assert metrics["validation_loss"] == min(losses) < losses[-1]
    assert all(torch.equal(model.get_parameter(name), each) for name, each in trainer.best.items())
    assert metrics["num_trained_parameters"] == sum(each.numel() for each in model.parameters())
    assert metrics["training_seconds"] == pytest.approx(sum(row["seconds"] for row in history))
    monkeypatch.setattr("xrec.lab.baselines.train.map_in_processes", None)
    assert train_baseline(baseline) == manifest
    with pytest.raises(ArtifactMismatchError, match=r"recipe\.num_epochs: 30 there, 3 here"):
        train_baseline(make_baseline(recipe={"num_epochs": 3}))


def test_process_in_the_place_of_one_that_died_makes_the_epochs_before_again(make_baseline):
    baseline = make_baseline(recipe={"num_epochs": 3, "batch_size": 6}, sizes={"dropout": 0.3})
    first = _load_trainer(baseline)
    losses = [first(epoch)[0]["train_loss"] for epoch in (1, 2, 3)]
    row, best = _load_trainer(baseline)(3)
    assert (row["train_loss"], set(best)) == (losses[2], set(first(3)[1]))
    assert first(4) is None
