"""A baseline from its examples to its texts; tests/xrec/jobs/test_compare.py trains one on Ray."""

import json
from typing import Any

import pytest
import torch

from tests.errors import raises
from tests.xrec.lab.baselines.conftest import write_untrained
from xrec.errors import ArtifactMismatchError
from xrec.lab.baselines.artifact import build_model, read_baseline
from xrec.lab.baselines.baseline import Baseline
from xrec.lab.baselines.codec import END, UNKNOWN
from xrec.lab.baselines.data import BaselineData, TextExample, build_data, collate
from xrec.lab.baselines.texts import write_baseline_texts
from xrec.lab.baselines.train import train_baseline
from xrec.lab.baselines.trainer import BaselineTrainer


def test_data_are_the_explained_pairs_in_words_of_the_training_texts(make_baseline, dataset):
    data = build_data(make_baseline(), dataset)
    for split, examples in (("train", data.train), ("validation", data.validation)):
        rows = dataset.explained_pairs(split).to_pylist()
        pairs = [(row["user_index"], row["item_index"]) for row in rows]
        assert [(each.user_index, each.item_index) for each in examples] == pairs
        assert {each.token_ids[-1] for each in examples} == {END}
    text = data.codec.decode(list(data.train[0].token_ids))
    assert text == dataset.explained_pairs("train")["explanation"][0].as_py()
    few, others = (build_data(make_baseline(seed=seed, max_pairs=3), dataset) for seed in (0, 7))
    pairs = {(example.user_index, example.item_index) for example in few.train}
    assert pairs == {(example.user_index, example.item_index) for example in others.train}
    seen = {token for example in few.train for token in example.token_ids} - {END}
    assert (len(pairs), len(few.codec.pieces)) == (3, 4 + len(seen))
    assert UNKNOWN in {token for example in few.validation for token in example.token_ids}


def trainer_of(baseline: Baseline, data: BaselineData, **settings: Any) -> BaselineTrainer:
    model = build_model(baseline, data.sizes)
    return BaselineTrainer(model, data, baseline.recipe, seed=baseline.seed, **settings)


def test_training_of_lora_changes_only_its_own_weights(make_baseline, dataset):
    pytest.importorskip("peft", reason="the extra compare is not installed")
    recipe = {"num_epochs": 3, "batch_size": 8, "warmup_share": 0.4, "learning_rate": 0.02}
    baseline = make_baseline("lora", **recipe)
    trainer = trainer_of(baseline, build_data(baseline, dataset))
    before = {name: each.clone() for name, each in trainer.model.named_parameters()}
    while not trainer.has_finished:
        trainer.run_epoch()
    losses = [row["train_loss"] for row in trainer.history]
    assert losses[-1] < losses[0]
    assert all(".lora_" in name for name in trainer.best)
    for name, each in trainer.model.named_parameters():
        assert torch.equal(each, before[name]) or ".lora_" in name


@pytest.mark.usefixtures("processes_here")
@pytest.mark.parametrize("kind", ["att2seq", "nrt", "peter", "pepler"])
def test_training_keeps_the_best_epoch_and_is_done_once(kind, make_baseline, dataset, monkeypatch):
    recipe = {"optimizer": "AdamW", "learning_rate": 0.05, "num_epochs": 8, "patience": 2}
    baseline = make_baseline(kind, **recipe)
    manifest = train_baseline(baseline)
    history = json.loads((baseline.model / "history.json").read_text())
    losses = [row["validation_loss"] for row in history]
    trainer = trainer_of(baseline, build_data(baseline, dataset))
    while not trainer.has_finished:
        trainer.run_epoch()
    assert [row["validation_loss"] for row in trainer.history] == losses
    assert min(losses) < losses[0]
    assert {row["phase"] for row in history} == set(range(2 if kind == "pepler" else 1))
    metrics, model = manifest.metrics, read_baseline(baseline).model
    assert metrics["num_epochs"] == len(history)
    assert metrics["validation_loss"] == min(losses)
    assert all(torch.equal(model.get_parameter(name), each) for name, each in trainer.best.items())
    monkeypatch.setattr("xrec.lab.baselines.train.map_in_processes", None)
    assert train_baseline(baseline) == manifest
    with raises(ArtifactMismatchError, "another_run", "recipe.num_epochs"):
        train_baseline(make_baseline(kind, **{**recipe, "num_epochs": 3}))


PAIRS = [(user, user + 2) for user in range(6)]


@pytest.mark.usefixtures("processes_here")
@pytest.mark.parametrize("kind", ["peter", "pepler"])
def test_texts_are_what_the_model_writes_for_each_pair_alone(kind, make_baseline, dataset):
    baseline = make_baseline(kind)
    write_untrained(baseline, dataset)
    texts, rate = write_baseline_texts(baseline, PAIRS, at_once=4)
    assert len(set(texts)) > 1
    assert rate > 0
    trained = read_baseline(baseline)
    for (user, item), text in zip(PAIRS, texts, strict=True):
        (ids,) = trained.model.write(collate([TextExample(user, item, ())]), trained.max_words)
        assert text == trained.codec.decode(ids)
