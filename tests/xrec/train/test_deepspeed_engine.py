"""DeepSpeed's settings, and the optimizer's state moved between engines of all ZeRO stages.

On two workers, an engine with a restored state makes the steps of the engine that went on.
"""

import sys
import types
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from xrec.config.adapter import TrainAdapterConfig
from xrec.config.shared import ScalingConfig
from xrec.storage import open_location
from xrec.train.deepspeed_engine import deepspeed_settings, initialize_engine, sharded_loading
from xrec.train.ray_driver import fit


def make_config(**changes: Any) -> TrainAdapterConfig:
    return TrainAdapterConfig.model_validate({"workspace": "w", "llm": {"model": "m"}, **changes})


def test_deepspeed_settings_accumulate_to_the_global_batch() -> None:
    config = make_config(
        training={"global_batch_size": 48, "micro_batch_size": 4},
        scaling={"num_workers": 3},
        deepspeed={"zero_stage": 2},
    )
    settings = deepspeed_settings(config, dtype=torch.bfloat16, world_size=3)
    assert (
        settings["train_micro_batch_size_per_gpu"] * settings["gradient_accumulation_steps"] * 3
        == 48
    )
    assert settings["zero_optimization"]["stage"] == 2
    assert settings["bf16"] == {"enabled": True}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        found = deepspeed_settings(config, dtype=dtype, world_size=3)
        assert found["bf16"]["enabled"] == (dtype == torch.bfloat16)
        assert found["fp16"]["enabled"] == (dtype == torch.float16)


@pytest.mark.parametrize(("world_size", "steps"), [(1, 6), (2, 3), (3, 2), (4, 2), (6, 1)])
def test_deepspeed_settings_accumulate_more_on_fewer_workers(world_size: int, steps: int) -> None:
    config = make_config(
        training={"global_batch_size": 24, "micro_batch_size": 4},
        scaling={"num_workers": 6, "min_workers": 1},
        deepspeed={"zero_stage": 0},
    )
    assert (
        deepspeed_settings(config, dtype=torch.float32, world_size=world_size)[
            "gradient_accumulation_steps"
        ]
        == steps
    )


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"zero_stage": 1}, {"stage": 1}),
        (
            {"zero_stage": 2, "offload": "cpu"},
            {"stage": 2, "offload_optimizer": {"device": "cpu", "pin_memory": False}},
        ),
        (
            {
                "zero_stage": 3,
                "offload": "nvme",
                "offload_path": "/mnt/x",
                "max_live_parameters": 7,
            },
            {
                "stage": 3,
                "stage3_param_persistence_threshold": 100_000,
                "stage3_max_live_parameters": 7,
                "stage3_max_reuse_distance": 7,
                "offload_optimizer": {"device": "nvme", "pin_memory": False, "nvme_path": "/mnt/x"},
                "offload_param": {"device": "nvme", "pin_memory": False, "nvme_path": "/mnt/x"},
            },
        ),
    ],
)
def test_deepspeed_settings_have_the_zero_section(
    section: dict[str, Any], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (
        deepspeed_settings(make_config(deepspeed=section), dtype=torch.float32, world_size=2)[
            "zero_optimization"
        ]
        == expected
    )


def test_sharded_loading_is_for_stage_3_only() -> None:
    config = make_config(deepspeed={"zero_stage": 1})
    assert sharded_loading(deepspeed_settings(config, dtype=torch.float32, world_size=2)) is None


class Optimizer16:
    """DeepSpeed's optimizer for 16 bits at stage 0: when it is built it makes a step of zeros."""

    def __init__(self, adam: torch.optim.AdamW) -> None:
        (group,) = adam.param_groups
        self.low = group["params"]
        self.high = group["params"] = [weight.detach().float() for weight in self.low]
        self.adam = adam
        self.step([torch.zeros_like(weight) for weight in self.high])

    def step(self, gradients: list[torch.Tensor]) -> None:
        for weight, gradient in zip(self.high, gradients, strict=True):
            weight.grad = gradient
        self.adam.step()

    def refresh_fp32_params(self) -> None:
        for high, low in zip(self.high, self.low, strict=True):
            high.copy_(low.detach())


def test_initialize_engine_at_stage_0_in_16_bits_begins_at_adams_first_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(*, model: Any, optimizer: Any, **_: Any) -> tuple[types.SimpleNamespace]:
        return (
            types.SimpleNamespace(
                basic_optimizer=optimizer,
                optimizer=Optimizer16(optimizer),
                zero_optimization_stage=lambda: 0,
                fp16_enabled=lambda: False,
            ),
        )

    monkeypatch.setitem(sys.modules, "deepspeed", Mock(initialize=build))
    monkeypatch.setattr("xrec.train.deepspeed_engine.init_deepspeed", lambda: None)
    monkeypatch.setattr("ray.train.torch.get_device", lambda: torch.device("cpu"))
    module = torch.nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    torch.nn.init.ones_(module.weight)
    adam = torch.optim.AdamW(module.parameters(), lr=0.25, weight_decay=0.5)
    engine = initialize_engine(module, adam, {})
    engine.optimizer.step([torch.full((1, 1), 8.0)])
    # The decay takes lr * 0.5 off, and Adam's first step is lr whatever the gradient.
    assert engine.optimizer.high[0].item() == pytest.approx(1 - 0.125 - 0.25)


STEPS_BEFORE, STEPS_AFTER = 3, 3


def weights_by_stage(config: dict[str, Any]) -> None:
    """Report the weights after all steps, for each pair of stages and each dtype.

    The state is moved from an engine of the first stage to one of the second on the way.
    """
    import torch
    from deepspeed.accelerator import get_accelerator

    from xrec.train.deepspeed_engine import initialize_engine, restore_states, whole_state
    from xrec.train.loss_scale import float16_settings, scaled
    from xrec.train.ray_worker import rank, report

    get_accelerator().is_fp16_supported = lambda: True  # as allow_float16 of adapter_town

    def build(stage: int, dtype: str) -> Any:
        torch.manual_seed(stage)  # each starts elsewhere, so that what is not restored differs
        module = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 1))
        module[1].requires_grad_(False)
        torch.nn.init.ones_(module[1].weight)
        torch.nn.init.zeros_(module[1].bias)
        optimizer = torch.optim.AdamW(module[0].parameters(), lr=0.1, weight_decay=0.1)
        settings = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 2,
            "gradient_clipping": 1.0,
            "bf16": {"enabled": dtype == "bfloat16"},
            "fp16": float16_settings(getattr(torch, dtype)),
            "zero_optimization": {"stage": stage},
        }
        return initialize_engine(
            module,
            optimizer,
            settings,
            torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
        )

    def train(engine: Any, first: int, last: int) -> None:
        for step in range(first, last):
            try_step(engine, step)
            while not engine.was_step_applied():  # the first loss scales in float16 are too large
                try_step(engine, step)

    def try_step(engine: Any, step: int) -> None:
        for micro in range(2):
            row = torch.tensor(
                [[1.0 + rank(), -step, 2.0 + micro]], dtype=engine.module[1].bias.dtype
            )
            engine.backward(scaled(engine, engine(row).float().square().sum()))
            engine.step()

    def trained(engine: Any) -> list[torch.nn.Parameter]:
        return [parameter for parameter in engine.module.parameters() if parameter.requires_grad]

    found: dict[str, list[float]] = {}
    for dtype in ("float32", "bfloat16", "float16"):
        for source in range(4):
            engine = build(source, dtype)
            train(engine, 0, config["before"])
            states = [whole_state(engine, parameter) for parameter in trained(engine)]
            states = [
                type(state)(*(tensor.clone() for tensor in vars(state).values()))
                for state in states
            ]
            train(engine, config["before"], config["before"] + config["after"])
            found[f"{dtype} {source}"] = _flat(engine, trained(engine))
            for target in range(4):
                other = build(target, dtype)
                train(other, 0, 1)
                restore_states(
                    other, dict(zip(trained(other), states, strict=True)), config["before"]
                )
                train(other, config["before"], config["before"] + config["after"])
                found[f"{dtype} {source} to {target}"] = _flat(other, trained(other))
    report({"found": found}, {"empty": b""})


def _flat(engine: Any, parameters: list[Any]) -> list[float]:
    from xrec.train.deepspeed_engine import whole_state

    return [
        value
        for parameter in parameters
        for value in whole_state(engine, parameter).weight.flatten().tolist()
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_states_restored_at_another_stage_go_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    config = {"before": STEPS_BEFORE, "after": STEPS_AFTER}
    scaling = ScalingConfig(num_workers=2, device="cpu", max_failures=0)
    found = fit(
        weights_by_stage, config, scaling=scaling, storage=open_location(str(tmp_path)), name="run"
    ).metrics["found"]
    assert len(found) == 3 * 4 * 5
    for moved in (name for name in found if " to " in name):
        tolerance = 1e-5 if moved.startswith("float32") else 1e-3
        source, _ = moved.split(" to ")
        assert found[moved] == pytest.approx(found[source], rel=tolerance, abs=tolerance), moved
