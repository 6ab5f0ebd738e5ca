"""Settings that go together, or not at all."""

from typing import Any

import pytest
from pydantic import ValidationError

from xrec.config.adapter import AdapterTrainingConfig, DeepSpeedConfig, TrainAdapterConfig
from xrec.config.engine import BuiltinEngineConfig, EngineConfig
from xrec.config.shared import ScalingConfig


@pytest.mark.parametrize(
    ("settings", "fewest"), [({"num_workers": 4}, 4), ({"num_workers": 4, "min_workers": 2}, 2)]
)
def test_scaling_config_fewest_workers(settings: dict[str, int], fewest: int) -> None:
    assert ScalingConfig(**settings).fewest_workers == fewest


def test_scaling_config_min_above_num_workers_is_refused() -> None:
    with pytest.raises(ValidationError, match="min_workers must be at most num_workers = 2, saw 3"):
        ScalingConfig(num_workers=2, min_workers=3)


def test_engine_config_tensor_parallel_without_vllm_is_refused() -> None:
    assert EngineConfig(kind="vllm", tensor_parallel_size=4).tensor_parallel_size == 4
    with pytest.raises(ValidationError, match="tensor_parallel_size = 4 needs kind = 'vllm'"):
        EngineConfig(kind="builtin", tensor_parallel_size=4)


def test_builtin_engine_config_vllm_is_refused() -> None:
    with pytest.raises(ValidationError, match="Input should be 'builtin'"):
        BuiltinEngineConfig.model_validate({"kind": "vllm"})


def test_engine_config_options_of_vllm_with_our_engine_are_refused() -> None:
    options = {"max_num_batched_tokens": 16384}
    assert EngineConfig(kind="auto", vllm_options=options).vllm_options == options
    with pytest.raises(ValidationError, match=r"vllm_options = .* needs kind = 'vllm'"):
        EngineConfig(kind="builtin", vllm_options=options)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"offload": "cpu", "zero_stage": 1}, "offload = 'cpu' needs zero_stage 3 or auto, saw 1"),
        ({"zero_stage": 2}, "zero_stage"),
    ],
)
def test_deepspeed_config_of_another_stage_or_nothing_to_offload_is_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        DeepSpeedConfig(**settings)


@pytest.mark.parametrize(
    ("section", "seen"),
    [
        ({"zero_stage": 3}, "saw 3 and none"),
        ({"offload": "cpu"}, "saw auto and cpu"),
    ],
)
def test_train_adapter_config_quantized_weights_that_would_be_sharded_are_refused(
    section: dict[str, Any], seen: str
) -> None:
    values = {"workspace": "w", "llm": {"model": "m", "quantization": "int8"}}
    assert TrainAdapterConfig.model_validate(values).deepspeed.zero_stage == "auto"
    with pytest.raises(ValidationError, match=f"'int8' cannot be sharded or offloaded.*{seen}"):
        TrainAdapterConfig.model_validate({**values, "deepspeed": section})


@pytest.mark.parametrize("size", [0, -1, 2.5, "fast", None])
def test_train_adapter_config_micro_batch_size_is_a_number_or_auto(size: Any) -> None:
    for allowed in (1, 8, "auto"):
        assert AdapterTrainingConfig(micro_batch_size=allowed).micro_batch_size == allowed
    with pytest.raises(ValidationError, match="expected a whole number from 1 on, or auto") as seen:
        AdapterTrainingConfig(micro_batch_size=size)
    assert seen.value.error_count() == 1


def test_train_adapter_config_quantization_of_four_bits_is_refused() -> None:
    with pytest.raises(ValidationError, match="Input should be 'int8'"):
        TrainAdapterConfig.model_validate(
            {"workspace": "w", "llm": {"model": "m", "quantization": "int4"}}
        )
