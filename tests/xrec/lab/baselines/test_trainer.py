"""The training loop, in this process, of every kind of baseline."""

import threading
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.fake_gpu import CPU, GPU, FakeGPU
from tests.xrec.lab.baselines.conftest import explanation
from xrec.config.adapter import AdapterTrainingConfig
from xrec.errors import ArtifactMismatchError, TrainingError
from xrec.lab.baselines.artifact import build_model
from xrec.lab.baselines.baseline import RECIPES, Baseline, Recipe, recipe_of
from xrec.lab.baselines.data import BaselineData, build_data, collate
from xrec.lab.baselines.trainer import BaselineProgress, BaselineTrainer, Workers


def trainer_of(baseline: Baseline, data: BaselineData, **settings: Any) -> BaselineTrainer:
    model = build_model(baseline, data.sizes)
    return BaselineTrainer(model, data, baseline.recipe, seed=baseline.seed, **settings)


def texts_of(trainer: BaselineTrainer, data: BaselineData, device: torch.device = CPU) -> list[str]:
    model, codec = trainer.model.eval(), data.codec
    pairs = collate(data.train).pairs.to(device)
    return [codec.decode(ids) for ids in model.write(pairs, data.max_words)]


def rows_of(trainer: BaselineTrainer) -> list[dict[str, Any]]:
    return [{**row, "seconds": 0} for row in trainer.progress.history]


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


def test_trainer_stops_early_and_keeps_the_best_epoch(make_baseline, dataset):
    recipe = {"optimizer": "AdamW", "learning_rate": 0.05, "patience": 2}
    baseline = make_baseline(recipe=recipe)
    trainer, kept = trainer_of(baseline, build_data(baseline, dataset)), []
    while not trainer.has_finished:
        trainer.run_epoch()
        kept.append(trainer.best)
    losses = [row["validation_loss"] for row in trainer.progress.history]
    assert len(losses) < 100
    assert min(losses) < losses[-1]
    best = losses.index(min(losses))
    assert all(later is kept[best] for later in kept[best:])


@pytest.mark.parametrize("kind", ["peter", "lora"])
def test_trainer_resumed_after_each_epoch_equals_an_unbroken_one(kind, make_baseline, dataset):
    if kind == "lora":
        pytest.importorskip("peft", reason="the extra compare is not installed")
    sizes = {} if kind == "lora" else {"dropout": 0.3}
    baseline = make_baseline(kind, sizes=sizes, recipe={"batch_size": 6, "num_epochs": 3})
    data = build_data(baseline, dataset)
    unbroken = trainer_of(baseline, data, run="r")
    while not unbroken.has_finished:
        unbroken.run_epoch()
    files: dict[str, bytes] = {}
    for _ in range(3):
        resumed = trainer_of(baseline, data, run="r")
        if files:
            resumed.restore(files.__getitem__)
        torch.manual_seed(99)  # no random number may come from before
        resumed.run_epoch()
        files = resumed.checkpoint()
    assert resumed.has_finished
    assert rows_of(resumed) == rows_of(unbroken)
    assert all(torch.equal(resumed.best[name], each) for name, each in unbroken.best.items())
    with pytest.raises(
        ArtifactMismatchError, match="the checkpoint is of run r, this is run other"
    ):
        trainer_of(baseline, data, run="other").restore(files.__getitem__)


def test_trainer_of_lora_changes_its_weights_alone_at_a_rate_with_a_peak(make_baseline, dataset):
    pytest.importorskip("peft", reason="the extra compare is not installed")
    recipe = {"num_epochs": 3, "batch_size": 8, "warmup_share": 0.4, "learning_rate": 0.02}
    baseline = make_baseline("lora", recipe=recipe)
    trainer = trainer_of(baseline, build_data(baseline, dataset))
    before = {name: each.clone() for name, each in trainer.model.named_parameters()}
    while not trainer.has_finished:
        trainer.run_epoch()
    losses = [row["train_loss"] for row in trainer.progress.history]
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


@dataclass
class _Meeting:
    """Where two threads add up their tensors, as workers do."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(2, timeout=30))
    tensors: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class _Threads(Workers):
    meeting: _Meeting = field(default_factory=_Meeting)

    def add_up(self, tensor: Tensor) -> Tensor:
        self.meeting.tensors[self.rank] = tensor.clone()
        self.meeting.barrier.wait()
        total = self.meeting.tensors[0] + self.meeting.tensors[1]
        self.meeting.barrier.wait()
        return tensor.copy_(total)


# 20 pairs in batches of 7: the last one has 6; in batches of 19 it has one pair, and the second
# worker none.
@pytest.mark.parametrize("batch_size", [7, 19])
def test_trainer_two_workers_or_small_passes_learn_the_same(batch_size, make_baseline, dataset):
    recipe = {"batch_size": batch_size, "num_epochs": 2}
    baseline = make_baseline(recipe=recipe)
    small = make_baseline(recipe={**recipe, "micro_batch_size": 3})
    data, meeting = build_data(baseline, dataset), _Meeting()
    alone, passes = trainer_of(baseline, data), trainer_of(small, data)
    pair = [trainer_of(baseline, data, workers=_Threads(rank, 2, meeting)) for rank in range(2)]

    def run(trainer: BaselineTrainer) -> None:
        while not trainer.has_finished:
            trainer.run_epoch()

    run(alone)
    run(passes)
    threads = [threading.Thread(target=run, args=(trainer,)) for trainer in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    parameters = dict(alone.model.named_parameters())
    for trainer in (*pair, passes):
        for row, expected in zip(trainer.progress.history, alone.progress.history, strict=True):
            for name in ("train_loss", "validation_loss"):
                assert row[name] == pytest.approx(expected[name], rel=1e-5)
        for name, parameter in trainer.model.named_parameters():
            assert torch.allclose(parameter, parameters[name], atol=1e-5)


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
        """The rows of two epochs, the second after a checkpoint, and the texts."""
        first, second = (trainer_of(baseline, data, device=device) for _ in range(2))
        first.run_epoch()
        second.restore(first.checkpoint().__getitem__)
        second.run_epoch()
        return rows_of(second), texts_of(second, data, device)

    rows, texts = run(CPU)
    with FakeGPU():
        found_rows, found_texts = run(GPU)
    assert found_texts == texts
    assert found_rows == [pytest.approx(row, rel=1e-6) for row in rows]


def progress_of(*losses: float) -> BaselineProgress:
    rows = ({"epoch": 1 + place, "validation_loss": each} for place, each in enumerate(losses))
    return BaselineProgress("run", history=tuple(rows))


@pytest.mark.parametrize(
    ("losses", "has_ended"),
    [
        ((), False),
        ((3.0, 2.0, 1.0), False),
        ((3.0, 2.0, 1.0, 0.5), True),  # all epochs
        ((1.0, 1.0, 1.0), True),  # an equal loss is no gain
        ((1.0, 2.0, 0.5), False),
        ((2.0, 3.0, 1.0, 1.5), True),  # two without a gain, though not in a row
    ],
)
def test_progress_ends_with_its_epochs_or_its_patience(losses, has_ended):
    recipe = Recipe("SGD", 1.0, num_epochs=4, patience=2)
    assert progress_of(*losses).has_ended(recipe) is has_ended


def test_recipes_are_as_published_and_lora_has_the_passes_and_longest_text_of_ours():
    values = {"num_epochs": 7, "max_explanation_tokens": 96, "max_validation_pairs": 5}
    training = AdapterTrainingConfig.model_validate(values)
    recipes = {kind: recipe_of(kind, training) for kind in RECIPES}
    assert recipes["peter"] == recipes["peter_plus"]
    assert recipes["peter"] == replace(RECIPES["peter"], max_validation_pairs=5)
    assert recipes["lora"] == replace(RECIPES["lora"], **values)
