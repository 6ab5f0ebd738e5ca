"""The module that DeepSpeed trains, and DeepSpeed's settings; without DeepSpeed."""

from typing import Any

import pytest
import torch

from tests.toy import attach_toy, toy_model
from xrec.config import LearningRateConfig, TrainAdapterConfig
from xrec.llm.examples import Example, explanation_nll
from xrec.train.adapter_module import ExplanationLoss, deepspeed_config, learning_rate_share, sharded_loading
from xrec.train.prefix_cache import PrefixCache

V = 64
EXAMPLES = [Example([V, 5, V + 5], [6, 7, 2]), Example([V + 1, 5, 9, 9, V + 6], [8, 2])]


def make_module() -> ExplanationLoss:
    model = toy_model()
    attach_toy(model, "projected")
    return ExplanationLoss(model, PrefixCache(model, EXAMPLES, budget_bytes=0))


def make_config(**changes: Any) -> TrainAdapterConfig:
    return TrainAdapterConfig.model_validate({"workspace": "w", "llm": {"model": "m"}, **changes})


def test_explanation_loss_is_the_sum_over_labels_only() -> None:
    module = make_module()
    expected = sum(mean * len(EXAMPLES[index].label_ids) for index, mean in explanation_nll(module.model, EXAMPLES, 1))
    assert module(EXAMPLES).item() == pytest.approx(expected, rel=1e-5)


def test_explanation_loss_gradients_reach_all_adapter_weights_and_nothing_else() -> None:
    module = make_module().train()
    module(EXAMPLES).backward()
    with_gradient = {name for name, parameter in module.named_parameters() if parameter.grad is not None and parameter.grad.abs().sum() > 0}
    assert with_gradient == {name for name, _ in module.named_parameters() if "_adapter." in name}
    assert len(with_gradient) == 8


def test_explanation_loss_training_mode_is_for_the_adapters() -> None:
    module = make_module()
    for mode in (True, False):
        module.train(mode)
        in_training = {name for name, part in module.model.named_modules() if part.training}
        assert in_training == ({f"model.embed_tokens.{side}_adapter" for side in ("user", "item")} if mode else set())
    assert not module.eval().training


def test_deepspeed_config_accumulates_to_the_global_batch() -> None:
    config = make_config(training={"global_batch_size": 48, "micro_batch_size": 4}, scaling={"num_workers": 3}, deepspeed={"zero_stage": 2})
    settings = deepspeed_config(config, dtype=torch.bfloat16)
    assert settings["train_micro_batch_size_per_gpu"] * settings["gradient_accumulation_steps"] * 3 == 48
    assert settings["zero_optimization"]["stage"] == 2
    assert settings["bf16"] == {"enabled": True}
    assert deepspeed_config(config, dtype=torch.float32)["bf16"] == {"enabled": False}


@pytest.mark.parametrize(
    ("warmup_share", "num_steps", "expected"),
    [(0.5, 4, [0.5, 1.0, 2 / 3, 1 / 3]), (0.0, 4, [1.0, 0.75, 0.5, 0.25]), (0.05, 1, [1.0]), (0.9, 2, [0.5, 1.0])],
)
def test_learning_rate_share_warms_up_and_decays_in_straight_lines(warmup_share: float, num_steps: int, expected: list[float]) -> None:
    share = learning_rate_share(LearningRateConfig(warmup_share=warmup_share), num_steps)
    assert [share(step) for step in range(num_steps)] == pytest.approx(expected)
    assert share(num_steps) == 0


def test_sharded_loading_is_for_stage_3_only() -> None:
    config = make_config(deepspeed={"zero_stage": 1})
    assert sharded_loading(config, deepspeed_config(config, dtype=torch.float32)) is None
