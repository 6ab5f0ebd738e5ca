"""DeepSpeed's settings: the same global batch on any number of workers, sums in float32."""

from typing import Any

import pytest
import torch

from xrec.config.adapter import TrainAdapterConfig
from xrec.train.deepspeed_engine import deepspeed_settings


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


def test_deepspeed_settings_have_the_zero_section(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu = {"device": "cpu", "pin_memory": False}
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
