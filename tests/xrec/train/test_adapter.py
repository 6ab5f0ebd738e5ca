"""What a worker of adapter training does: the loss, its gradients, steps, DeepSpeed's settings."""

import os
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from tests.errors import raises
from tests.world.models import attach_toy, explanation_nll, toy_model
from tests.xrec.train.adapter_town import make_config
from tests.xrec.train.worker import worker_here
from xrec.config.adapter import Injection, LearningRateConfig, TrainAdapterConfig
from xrec.errors import ModelError, TrainingError
from xrec.llm.examples import Example
from xrec.llm.prefix import PrefixCache
from xrec.storage import location_of
from xrec.train.adapter import for_workers
from xrec.train.adapter_model import (
    AdapterPasses,
    ExplanationLoss,
    build_model,
    checkpoint_layers,
    learning_rate_share,
    splitting_pays,
    sum_over_workers,
    try_step,
)
from xrec.train.data import MicroBatch, load_adapter_data
from xrec.train.deepspeed_engine import deepspeed_settings
from xrec.train.example_shards import write_examples
from xrec.train.ray_worker import prepare_worker

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
    with raises(ModelError, "no_gradient_checkpointing", "training.gradient_checkpointing"):
        checkpoint_layers(model)


# A beginning of 500 tokens in each of 100 rows, 4 rows a pass: 2,000 tokens.
@pytest.mark.parametrize(
    ("device", "num_here", "changes", "pays"),
    [
        # Nothing is kept: a near gather costs 1,000 tokens, a far one 10,000.
        ("cuda", 4, {}, True),
        ("cuda", 2, {}, False),
        ("cpu", 2, {}, True),
        ("cuda", 2, {"zero_stage": 1}, True),
        ("cuda", 2, {"deepspeed": {"hpz_partition_size": 2}}, True),
        ("cuda", 4, {"micro_batch_size": 1}, False),
        # All are kept from the second epoch on: 2,000 * (2 - 1/E) against 10,000 / E.
        ("cuda", 2, {"prefix_cache_gib": 1.0, "num_epochs": 3}, False),
        ("cuda", 2, {"prefix_cache_gib": 1.0, "num_epochs": 4}, True),
    ],
)
def test_splitting_pays_where_it_saves_more_than_another_gather_costs(
    tmp_path, device, num_here, changes, pays
):
    data: Any = SimpleNamespace(
        train=SimpleNamespace(num_prefix_tokens=np.full(100, 500)), shared_ids=[]
    )
    config = make_config("w", num_workers=4, **{"prefix_cache_gib": 0.0, **changes})
    num_steps = config.training.num_epochs * 100 // config.training.global_batch_size
    with worker_here(tmp_path, 4, num_here) as worker:
        found = splitting_pays(config, toy_model(), data, num_steps, torch.device(device))
    assert found == pays
    assert len(worker.notes) == (not pays)


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
def test_sum_over_workers_that_is_no_number_is_an_error_with_the_place(total, tmp_path):
    with worker_here(tmp_path):
        assert sum_over_workers(torch.tensor([6.0, 4.0]), "epoch 2, step 7") == [6.0, 4.0]
        key = "training.learning_rate.peak"
        with raises(TrainingError, "loss_not_finite", key) as caught:
            sum_over_workers(torch.tensor([total, 4.0]), "epoch 2, step 7")
    assert str(caught.value).startswith("epoch 2, step 7: ")


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
def step(tmp_path):
    """Makes a step of one micro-batch with an engine."""

    def run(engine: Any, number: int) -> torch.Tensor:
        data: Any = SimpleNamespace(train=EXAMPLES)
        passes = AdapterPasses(engine, data, seed=0)
        return passes.applied_step(
            [MicroBatch(np.array([number]), 3)], step=number, place=f"step {number}"
        )

    with worker_here(tmp_path):
        yield run


def test_skipped_step_in_float16_is_made_again_with_the_same_rows_and_random_numbers(step):
    unbroken, skipping = SkippingEngine(fp16=True), SkippingEngine(2, 3, fp16=True)
    for engine in (unbroken, skipping):
        assert step(engine, 0).tolist() == [2.0, 3.0]
        assert step(engine, 1).tolist() == [2.0, 2.0]
    first, second = unbroken.tried
    assert first[1] != second[1]
    assert skipping.tried == [first, second, second, second]


def test_skipped_step_without_a_loss_scale_ends_the_run(step):
    with raises(TrainingError, "gradient_not_finite", "training.learning_rate.peak"):
        step(SkippingEngine(1, fp16=False), 0)


def test_workers_open_a_relative_workspace_from_their_own_folder(tmp_path, monkeypatch):
    """Ray Train gives each worker a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    config = for_workers(make_config("workspace"))
    monkeypatch.chdir("/")
    for name in ("dataset", "graph", "aspects", "adapter"):
        assert location_of(config, name).shared_uri == str(tmp_path / "workspace" / name)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_trial_step_in_16_bits_changes_no_tensor(workspace, tmp_path, dtype):
    """Buffers stay in float32: the rotary frequencies in 16 bits would be other positions."""
    config = make_config(workspace, adapter=tmp_path, dtype=dtype, num_workers=1, zero_stage=1)
    write_examples(config, {}, {})

    def tensors() -> dict[str, torch.Tensor]:
        named = dict((*model.named_parameters(), *model.named_buffers()))
        return {name: tensor.detach().clone() for name, tensor in named.items()}

    with worker_here(tmp_path):
        data = load_adapter_data(config)
        model, _ = build_model(config, data)
        before = tensors()
        try_step(config, model, [data.train[0], data.train[1]])
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    assert before["model.rotary_emb.inv_freq"].dtype == torch.float32
    for key, tensor in tensors().items():
        assert tensor.dtype == before[key].dtype
        assert torch.equal(tensor, before[key])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_deepspeed_is_given_the_gpu_that_ray_gave_this_worker(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")  # the second worker of its node, which sees one GPU
    prepare_worker(1, None, torch.device("cuda:0"))
    assert os.environ["LOCAL_RANK"] == "0"


# DeepSpeed's settings


def settings_of(world_size: int = 2, dtype: Any = torch.float32, **changes: Any) -> dict[str, Any]:
    config = {"workspace": "w", "llm": {"model": "m"}, "deepspeed": {"zero_stage": 1}, **changes}
    return deepspeed_settings(
        TrainAdapterConfig.model_validate(config), dtype=dtype, world_size=world_size
    )


@pytest.mark.parametrize(("world_size", "steps"), [(1, 6), (2, 3), (3, 2), (4, 2), (6, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_deepspeed_settings_accumulate_to_the_global_batch_in_the_number_format(
    world_size, steps, dtype
):
    training = {"global_batch_size": 24, "micro_batch_size": 4}
    settings = settings_of(world_size, dtype, training=training)
    assert settings["train_micro_batch_size_per_gpu"] == 4
    assert settings["gradient_accumulation_steps"] == steps
    assert settings["bf16"]["enabled"] == (dtype == torch.bfloat16)
    assert settings["fp16"]["enabled"] == (dtype == torch.float16)
    assert settings["data_types"] == {"grad_accum_dtype": "fp32"}


def test_deepspeed_settings_have_the_zero_section():
    on_cpu = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    expected = {
        "stage": 3,
        "stage3_param_persistence_threshold": 100_000,
        "zero_hpz_partition_size": 2,
        "offload_optimizer": on_cpu,
        "offload_param": on_cpu,
    }
    found = settings_of(deepspeed={"zero_stage": 3, "offload": "cpu", "hpz_partition_size": 2})
    assert found["zero_optimization"] == expected
    assert settings_of(deepspeed={"zero_stage": 1})["zero_optimization"] == {"stage": 1}
