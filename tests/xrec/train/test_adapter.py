"""The module that DeepSpeed trains, without DeepSpeed: loss, gradients, learning rate."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from tests.fake_gpu import CPU, GPU
from tests.world.models import attach_toy, explanation_nll, toy_model
from tests.xrec.train.adapter_town import make_config
from xrec.config.adapter import Injection, LearningRateConfig
from xrec.errors import ModelError, TrainingError
from xrec.llm.examples import Example
from xrec.llm.prefix import PrefixCache, num_prefix_tokens
from xrec.storage import location_of
from xrec.train.adapter import for_workers
from xrec.train.adapter_model import (
    AdapterPasses,
    ExplanationLoss,
    _prefix_cache,
    _splitting_pays,
    checkpoint_layers,
    learning_rate_share,
    sum_over_workers,
)
from xrec.train.data import MicroBatch

V = 64
EXAMPLES = [Example([5, 9, V, V + 5], [6, 7, 2]), Example([5, 8, V + 1, 9, 9, V + 6], [8, 2])]


def make_module() -> ExplanationLoss:
    model = toy_model()
    attach_toy(model, "projected")
    return ExplanationLoss(model, PrefixCache(model, [5], num_positions=9, budget_bytes=0))


def test_explanation_loss_is_the_sum_over_labels():
    module = make_module()
    means = [mean for _, mean in explanation_nll(module.model, EXAMPLES, 1)]
    sums = [mean * len(row.label_ids) for mean, row in zip(means, EXAMPLES, strict=True)]
    assert module(EXAMPLES).item() == pytest.approx(sum(sums), rel=1e-5)


def test_explanation_loss_training_mode_is_for_the_adapters():
    module = make_module()
    for mode in (True, False):
        module.train(mode)
        in_training = {name for name, part in module.model.named_modules() if part.training}
        assert in_training == (
            {f"model.embed_tokens.{side}_adapter" for side in ("user", "item")} if mode else set()
        )
    assert not module.eval().training


def gradients(rule: Injection, *, checkpointing: bool) -> dict[str, torch.Tensor]:
    model = toy_model()
    attach_toy(model, rule)
    if checkpointing:
        checkpoint_layers(model)
    prefixes = PrefixCache(model, [5], num_positions=9, budget_bytes=0, split=False)
    module = ExplanationLoss(model, prefixes)
    calls = Mock(return_value=None)
    model.model.layers[0].mlp.register_forward_pre_hook(calls)
    torch.manual_seed(0)
    module.train()(EXAMPLES).backward()
    assert not model.model.layers[0].self_attn.training
    assert calls.call_count == 1 + checkpointing  # the second one is for the gradients
    named = {name: parameter.grad for name, parameter in module.named_parameters()}
    return {name: gradient for name, gradient in named.items() if gradient is not None}


@pytest.mark.parametrize("rule", ["projected", "direct", "none"])
def test_checkpoint_layers_gives_all_adapter_weights_the_same_gradients(rule):
    expected, actual = (gradients(rule, checkpointing=checks) for checks in (False, True))
    adapters = {name for name, _ in make_module().named_parameters() if "_adapter." in name}
    assert len(adapters) == 8
    assert expected.keys() == adapters
    assert all(gradient.any() for gradient in expected.values())
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_checkpoint_layers_that_cannot_raise_model_error():
    model = toy_model()
    model.supports_gradient_checkpointing = False
    with pytest.raises(ModelError, match=r"does not support .*gradient_checkpointing=false"):
        checkpoint_layers(model)


def data_of(examples: list[Example]) -> Any:
    """What the choice of the passes reads of the examples."""
    lengths = np.array([num_prefix_tokens(each.prompt_ids, V) for each in examples])
    train = SimpleNamespace(num_prefix_tokens=lengths)
    return SimpleNamespace(train=train, shared_ids=[], longest=lambda: (500, 2, 1))


@pytest.fixture
def nodes(monkeypatch):
    """Makes this process one of four workers with a device each, so many of them on its node."""

    def become(device: torch.device, num_here: int) -> Mock:
        notes = Mock()
        for name, value in {
            "worker_device": lambda: device,
            "world_size": lambda: 4,
            "local_world_size": lambda: num_here,
            "note": notes,
        }.items():
            monkeypatch.setattr(f"xrec.train.adapter_model.{name}", value)
        return notes

    return become


@pytest.mark.parametrize(("zero_stage", "num_calls"), [(1, 0), (3, 2)])
def test_prefix_cache_of_a_worker_asks_the_others_where_weights_are_sharded_only(
    zero_stage, num_calls, monkeypatch, nodes
):
    nodes(CPU, 4)
    any_worker = Mock(side_effect=bool)
    monkeypatch.setattr("xrec.train.adapter_model.any_worker", any_worker)
    model = toy_model()
    attach_toy(model, "projected")
    cache = _prefix_cache(make_config("w", zero_stage=zero_stage), model, data_of(EXAMPLES), 1)
    for _ in range(2):
        cache.split(model, EXAMPLES)
    assert any_worker.call_count == num_calls


# A beginning of 500 tokens in each of 100 rows, 4 rows a pass: 2,000 tokens.
@pytest.mark.parametrize(
    ("device", "num_here", "changes", "pays"),
    [
        # Nothing is kept: a near gather costs 1,000 tokens, a far one 10,000.
        (GPU, 4, {}, True),
        (GPU, 2, {}, False),
        (CPU, 2, {}, True),
        (GPU, 2, {"zero_stage": 1}, True),
        (GPU, 2, {"deepspeed": {"hpz_partition_size": 2}}, True),
        (GPU, 4, {"micro_batch_size": 1}, False),
        # All are kept from the second epoch on: 2,000 * (2 - 1/E) against 10,000 / E.
        (GPU, 2, {"prefix_cache_gib": 1.0, "num_epochs": 3}, False),
        (GPU, 2, {"prefix_cache_gib": 1.0, "num_epochs": 4}, True),
    ],
)
def test_splitting_pays_where_it_saves_more_than_another_gather_costs(
    nodes, device, num_here, changes, pays
):
    notes = nodes(device, num_here)
    data = data_of([Example([row % V, *[5] * 499, V], [2]) for row in range(100)])
    config = make_config("w", num_workers=4, **{"prefix_cache_gib": 0.0, **changes})
    num_steps = config.training.num_epochs * 100 // config.training.global_batch_size
    assert _splitting_pays(config, toy_model(), data, num_steps) == pays
    assert notes.call_count == (not pays)


@pytest.mark.parametrize(
    ("warmup_share", "num_steps", "expected"),
    [
        (0.5, 4, [0.5, 1.0, 2 / 3, 1 / 3]),
        (0.0, 4, [1.0, 0.75, 0.5, 0.25]),
        (0.05, 1, [1.0]),
        (0.9, 2, [0.5, 1.0]),
    ],
)
def test_learning_rate_share_warms_up_and_decays_in_straight_lines(
    warmup_share, num_steps, expected
):
    share = learning_rate_share(LearningRateConfig(warmup_share=warmup_share), num_steps)
    assert [share(step) for step in range(num_steps)] == pytest.approx(expected)
    assert share(num_steps) == 0


@pytest.mark.parametrize("total", [float("nan"), float("inf")])
def test_sum_over_workers_that_is_no_number_raises_training_error_with_the_place(
    total, monkeypatch
):
    monkeypatch.setattr("xrec.train.adapter_model.world_size", lambda: 1)
    assert sum_over_workers(torch.tensor([6.0, 4.0]), "epoch 2, step 7") == [6.0, 4.0]
    with pytest.raises(
        TrainingError,
        match=rf"^epoch 2, step 7: the loss is {total}; lower training\.learning_rate\.peak",
    ):
        sum_over_workers(torch.tensor([total, 4.0]), "epoch 2, step 7")


class SkippingEngine:
    """Skips the steps of the numbers `overflows`, counted from 1 with those that it skips."""

    device = torch.device("cpu")

    def __init__(self, *overflows: int, fp16: bool) -> None:
        self._overflows, self._fp16 = overflows, fp16
        self.module = make_module()
        self.tried: list[tuple[int, int]] = []

    def __call__(self, examples: list[Example], teachers: None = None) -> torch.Tensor:
        self.tried.append((examples[0].prompt_ids[0], torch.initial_seed()))
        return torch.tensor(2.0, requires_grad=True)

    def backward(self, loss: torch.Tensor) -> None: ...

    def step(self) -> None: ...

    def fp16_enabled(self) -> bool:
        return self._fp16

    def was_step_applied(self) -> bool:
        return len(self.tried) not in self._overflows


@pytest.fixture
def step(monkeypatch):
    """Makes a step of one micro-batch with an engine."""
    for name, value in {"world_size": 1, "rank": 0}.items():
        monkeypatch.setattr(f"xrec.train.adapter_model.{name}", lambda value=value: value)
    monkeypatch.setattr("xrec.train.adapter_model.note", lambda text: None)

    def run(engine: Any, number: int) -> torch.Tensor:
        data = SimpleNamespace(train=EXAMPLES)
        micro_batch = MicroBatch(np.array([number]), 3)
        passes = AdapterPasses(engine, data, seed=0)
        return passes.applied_step([micro_batch], step=number, place=f"step {number}")

    return run


def test_skipped_step_in_float16_is_made_again_with_the_same_rows_and_random_numbers(step):
    unbroken, skipping = SkippingEngine(fp16=True), SkippingEngine(2, 3, fp16=True)
    for engine in (unbroken, skipping):
        assert step(engine, 0).tolist() == [2.0, 3.0]
        assert step(engine, 1).tolist() == [2.0, 2.0]
    first, second = unbroken.tried
    assert first[1] != second[1]
    assert skipping.tried == [first, second, second, second]


def test_skipped_step_without_a_loss_scale_ends_the_run(step):
    with pytest.raises(TrainingError, match=r"^step 0: a gradient is not finite; lower training"):
        step(SkippingEngine(1, fp16=False), 0)


def test_workers_open_a_relative_workspace_from_their_own_folder(tmp_path, monkeypatch):
    """Ray Train gives each worker a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    config = for_workers(make_config("workspace"))
    monkeypatch.chdir("/")
    for name in ("dataset", "graph", "aspects", "adapter"):
        assert location_of(config, name).shared_uri == str(tmp_path / "workspace" / name)
