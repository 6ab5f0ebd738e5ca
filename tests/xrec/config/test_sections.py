"""Settings that go together, or not at all."""

from typing import Any

import pytest
from pydantic import ValidationError

from xrec.config.adapter import AdapterTrainingConfig, DeepSpeedConfig, TrainAdapterConfig
from xrec.config.base import Config
from xrec.config.llm import BuiltinEngineConfig, EngineConfig
from xrec.config.shared import ScalingConfig

INT8: dict[str, Any] = {"workspace": "w", "llm": {"model": "m", "quantization": "int8"}}
INT4 = {"workspace": "w", "llm": {"model": "m", "quantization": "int4"}}
NEEDS_VLLM = "needs kind = 'vllm'"
NOT_SHARDED = "'int8' cannot be sharded or offloaded"


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (ScalingConfig, {"num_workers": 4, "min_workers": 2}),
        (EngineConfig, {"kind": "vllm", "tensor_parallel_size": 4}),
        (EngineConfig, {"kind": "auto", "vllm_options": {"max_num_batched_tokens": 16384}}),
        (TrainAdapterConfig, INT8),
        *((AdapterTrainingConfig, {"micro_batch_size": size}) for size in (1, 8, "auto")),
    ],
)
def test_settings_that_go_together_are_taken(section: type[Config], values: dict[str, Any]) -> None:
    found = section.model_validate(values).model_dump()
    assert all(found[name] == values[name] for name in values if name != "llm")


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (ScalingConfig, {"num_workers": 2, "min_workers": 3}, "at most num_workers = 2, saw 3"),
        (EngineConfig, {"kind": "builtin", "tensor_parallel_size": 4}, f"size = 4 {NEEDS_VLLM}"),
        (
            EngineConfig,
            {"kind": "builtin", "vllm_options": {"a": 1}},
            f"vllm_options .*{NEEDS_VLLM}",
        ),
        (BuiltinEngineConfig, {"kind": "vllm"}, "Input should be 'builtin'"),
        (DeepSpeedConfig, {"offload": "cpu", "zero_stage": 1}, "needs zero_stage 3 or auto, saw 1"),
        (DeepSpeedConfig, {"zero_stage": 2}, "zero_stage"),
        (
            TrainAdapterConfig,
            {**INT8, "deepspeed": {"zero_stage": 3}},
            f"{NOT_SHARDED}.*saw 3 and none",
        ),
        (
            TrainAdapterConfig,
            {**INT8, "deepspeed": {"offload": "cpu"}},
            f"{NOT_SHARDED}.*saw auto and cpu",
        ),
        (TrainAdapterConfig, INT4, "Input should be 'int8'"),
        *(
            (
                AdapterTrainingConfig,
                {"micro_batch_size": size},
                "^1 validation error(.|\n)*expected a whole number from 1 on, or auto",
            )
            for size in (0, -1, 2.5, "fast", None)
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    section: type[Config], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        section.model_validate(values)


def test_scaling_config_fewest_workers_are_all_unless_there_is_a_minimum() -> None:
    assert ScalingConfig(num_workers=4).fewest_workers == 4
    assert ScalingConfig(num_workers=4, min_workers=2).fewest_workers == 2
