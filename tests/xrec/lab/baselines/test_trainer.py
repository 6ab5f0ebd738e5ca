"""The training loop, in this process, of every kind of baseline."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.fake_gpu import CPU, GPU, FakeGPU
from tests.xrec.lab.baselines.conftest import explanation
from xrec.config.adapter import AdapterTrainingConfig
from xrec.errors import TrainingError
from xrec.lab.baselines.artifact import build_model
from xrec.lab.baselines.baseline import RECIPES, Baseline, Recipe, recipe_of
from xrec.lab.baselines.data import BaselineData, build_data, collate
from xrec.lab.baselines.trainer import BaselineTrainer, has_ended


def trainer_of(baseline: Baseline, data: BaselineData, **settings: Any) -> BaselineTrainer:
    model = build_model(baseline, data.sizes)
    return BaselineTrainer(model, data, baseline.recipe, seed=baseline.seed, **settings)


def texts_of(trainer: BaselineTrainer, data: BaselineData, device: torch.device = CPU) -> list[str]:
    model, codec = trainer.model.eval(), data.codec
    pairs = collate(data.train).to(device)
    return [codec.decode(ids) for ids in model.write(pairs, data.max_words)]


def rows_of(trainer: BaselineTrainer) -> list[dict[str, Any]]:
    return [{**row, "seconds": 0} for row in trainer.history]


def test_trainer_overfits_twenty_pairs_to_the_letter(make_baseline, dataset):
    sizes = {"embedding_dim": 32, "feedforward_size": 32, "num_layers": 2}
    recipe = {"optimizer": "AdamW", "learning_rate": 0.01, "batch_size": 20, "num_epochs": 400}
    recipe |= {"patience": 400, "max_validation_pairs": 1}
    baseline = make_baseline(sizes=sizes, recipe=recipe)
    data = build_data(baseline, dataset)
    wanted = [explanation(each.user_index, each.item_index) for each in data.train]
    assert len(set(wanted)) == len(wanted) == 20
    trainer, written = trainer_of(baseline, data), []
    while written != wanted and not trainer.has_finished:
        for _ in range(20):
            trainer.run_epoch()
        written = texts_of(trainer, data)
    assert written == wanted


def test_trainer_of_lora_changes_its_weights_alone_at_a_rate_with_a_peak(make_baseline, dataset):
    pytest.importorskip("peft", reason="the extra compare is not installed")
    recipe = {"num_epochs": 3, "batch_size": 8, "warmup_share": 0.4, "learning_rate": 0.02}
    baseline = make_baseline("lora", recipe=recipe)
    trainer = trainer_of(baseline, build_data(baseline, dataset))
    before = {name: each.clone() for name, each in trainer.model.named_parameters()}
    while not trainer.has_finished:
        trainer.run_epoch()
    losses = [row["train_loss"] for row in trainer.history]
    assert losses[-1] < losses[0]
    assert all(".lora_" in name for name in trainer.best)
    for name, each in trainer.model.named_parameters():
        assert torch.equal(each, before[name]) or ".lora_" in name
    shares = [trainer._rate_share(step) for step in range(9)]  # 3 epochs of 3 steps
    assert shares[:4] == [0.25, 0.5, 0.75, 1.0]
    assert shares == sorted(shares[:4]) + sorted(shares[4:], reverse=True)


def test_trainer_first_step_of_sgd_follows_the_gradient_of_the_mean_loss(make_baseline, dataset):
    recipe = {"optimizer": "SGD", "learning_rate": 0.5, "gradient_clipping": None}
    baseline = make_baseline(recipe=recipe)
    data = build_data(baseline, dataset)
    model = build_model(baseline, data.sizes)
    batch = collate(data.train)
    (model(batch) / model.counts(batch)).sum().backward()
    expected = {name: each - 0.5 * each.grad for name, each in model.named_parameters()}
    trainer = trainer_of(baseline, data)
    trainer.run_epoch()
    for name, parameter in trainer.model.named_parameters():
        assert torch.allclose(parameter, expected[name], atol=1e-6), name


def test_trainer_small_passes_learn_the_same(make_baseline, dataset):
    recipe = {"batch_size": 7, "num_epochs": 2}  # of 20 pairs the last batch has 6
    data = build_data(make_baseline(), dataset)
    whole, small = (
        trainer_of(make_baseline(recipe={**recipe, "micro_batch_size": size}), data)
        for size in (64, 3)
    )
    for trainer in (whole, small):
        while not trainer.has_finished:
            trainer.run_epoch()
    for row, expected in zip(small.history, whole.history, strict=True):
        for name in ("train_loss", "validation_loss"):
            assert row[name] == pytest.approx(expected[name], rel=1e-5)
    for name, parameter in whole.model.named_parameters():
        assert torch.allclose(parameter, small.model.get_parameter(name), atol=1e-5)


def test_trainer_loss_that_is_not_finite_ends_the_run(make_baseline, dataset):
    baseline = make_baseline()
    trainer = trainer_of(baseline, build_data(baseline, dataset))
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"epoch 1, step 1: the loss is not finite; lower"):
        trainer.run_epoch()


def test_trainer_seed_decides_the_weights_and_the_order(make_baseline, dataset):
    def loss(seed: int) -> float:
        baseline = make_baseline(seed=seed, recipe={"batch_size": 4})
        row = trainer_of(baseline, build_data(baseline, dataset)).run_epoch()
        return float(row["train_loss"])

    assert loss(0) == loss(0)
    assert loss(0) != loss(1)


def test_trainer_on_a_gpu_learns_and_writes_what_it_does_on_a_cpu(make_baseline, dataset):
    # Without clipping, in which torch itself mixes devices by the rules of the stand-in.
    baseline = make_baseline(recipe={"num_epochs": 2, "gradient_clipping": None})
    data = build_data(baseline, dataset)

    def run(device: torch.device) -> tuple[Any, list[str]]:
        """The rows of two epochs, and the texts."""
        trainer = trainer_of(baseline, data, device=device)
        while not trainer.has_finished:
            trainer.run_epoch()
        return rows_of(trainer), texts_of(trainer, data, device)

    rows, texts = run(CPU)
    with FakeGPU():
        found_rows, found_texts = run(GPU)
    assert found_texts == texts
    assert found_rows == [pytest.approx(row, rel=1e-6) for row in rows]


@pytest.mark.parametrize(
    ("losses", "ends"),
    [
        ((), False),
        ((3.0, 2.0, 1.0), False),
        ((3.0, 2.0, 1.0, 0.5), True),  # all epochs
        ((1.0, 1.0, 1.0), True),  # an equal loss is no gain
        ((1.0, 2.0, 0.5), False),
        ((2.0, 3.0, 1.0, 1.5), True),  # two without a gain, though not in a row
    ],
)
def test_training_ends_with_its_epochs_or_its_patience(losses, ends):
    recipe = Recipe("SGD", 1.0, num_epochs=4, patience=2)
    assert has_ended([{"validation_loss": loss} for loss in losses], recipe) is ends


def test_recipes_are_as_published_and_lora_has_the_passes_and_longest_text_of_ours():
    values = {"num_epochs": 7, "max_explanation_tokens": 96, "max_validation_pairs": 5}
    training = AdapterTrainingConfig.model_validate(values)
    recipes = {kind: recipe_of(kind, training) for kind in RECIPES}
    assert recipes["peter"] == replace(RECIPES["peter"], max_validation_pairs=5)
    assert recipes["lora"] == replace(RECIPES["lora"], **values)
