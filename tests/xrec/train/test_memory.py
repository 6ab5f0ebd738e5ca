"""The estimate of a worker's memory against figures worked out by hand, and the choice of stage."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, Qwen3Config

from xrec.config.adapter import AdapterModelConfig
from xrec.errors import ModelError
from xrec.train.memory import (
    Load,
    ModelShape,
    choose_sharding,
    device_memory,
    empty_model,
    num_trained_parameters,
    shape_of,
    worker_memory,
)

GB = 1e9
GPU_24_GB, GPU_80_GB = int(22.5 * GB), int(79 * GB)


def llama2_7b() -> ModelShape:
    return shape_of(
        empty_model(
            LlamaConfig(
                vocab_size=32000,
                hidden_size=4096,
                intermediate_size=11008,
                num_hidden_layers=32,
                num_attention_heads=32,
            )
        )
    )


def load_of(**changes: Any) -> Load:
    """Return the load of configs/llama2-7b.yaml: four rows of 512 + 128 tokens."""
    values = {
        "micro_batch_size": 4,
        "longest_row": 640,
        "longest_rest": 640,
        "longest_explanation": 128,
        "num_trained": 4_197_376,
        "dtype_bytes": 2,
        "prefix_cache_bytes": 2**30,
    }
    return Load(**{**values, **changes})


def test_shape_of_llama_2_7b_has_the_published_number_of_parameters() -> None:
    shape = llama2_7b()
    assert shape.num_parameters == 6_738_415_616
    assert shape.num_linear_parameters == 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert shape.largest_linear == 4096 * 11008


def test_num_trained_parameters_counts_both_adapters() -> None:
    config = AdapterModelConfig(num_experts=8)
    assert num_trained_parameters(config, embedding_dim=64, hidden_size=4096) == 4_197_376


@pytest.mark.parametrize("num_tokens", [1, 3])
def test_num_trained_parameters_is_that_of_built_adapters(num_tokens: int) -> None:
    from xrec.adapter.model import build_adapters

    config = AdapterModelConfig(num_experts=3, num_tokens=num_tokens)
    adapters = build_adapters(config, embedding_dim=5, hidden_size=7)
    built = sum(
        parameter.numel()
        for part in (adapters.user, adapters.item)
        for parameter in part.parameters()
    )
    assert num_trained_parameters(config, embedding_dim=5, hidden_size=7) == built


def test_worker_memory_llama_2_7b_is_the_sum_of_the_config_files_comment() -> None:
    sharded = worker_memory(llama2_7b(), load_of(), stage=3, num_workers=8)
    expected = {
        "weights": 1.68,
        "whole_for_use": 2.00,
        "activations": 13.93,
        "logits": 0.10,
        "adapters_and_optimizer": 0.01,
        "gradient_buffer": 0.01,
        "prefix_cache": 1.07,
    }
    assert {name: round(value / GB, 2) for name, value in sharded.parts.items()} == expected
    assert sharded.total / GB == pytest.approx(18.80, abs=0.005)
    whole = worker_memory(llama2_7b(), load_of(), stage=0, num_workers=8)
    assert whole.weights / GB == pytest.approx(13.48, abs=0.005)
    assert whole.whole_for_use == 0


def test_worker_memory_prefixes_that_are_kept_take_activations_away() -> None:
    # 100 of 640 positions are left to a step; keys and values stay of all.
    parts = worker_memory(llama2_7b(), load_of(longest_rest=100), stage=0, num_workers=1)
    a_token = 20 * 4096 + 8 * 11008 - 2 * 2 * 4096
    assert parts.activations == 4 * 32 * (100 * a_token + 640 * 2 * 2 * 4096)


@pytest.mark.parametrize(("num_key_value_heads", "num_copies"), [(4, 540), (2, 540 + 640)])
def test_worker_memory_beginnings_of_a_batch_are_held_beside_those_that_are_kept(
    num_key_value_heads: int, num_copies: int
) -> None:
    """Where keys are shared by query heads, the model's own keys of all 640 positions come on."""
    shape = shape_of(
        empty_model(
            LlamaConfig(
                vocab_size=50,
                hidden_size=64,
                intermediate_size=40,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=num_key_value_heads,
            )
        )
    )
    split = load_of(longest_rest=100, longest_beginning=540, prefix_cache_bytes=1000)
    parts = worker_memory(shape, split, stage=0, num_workers=1)
    a_position = 3 * 2 * num_key_value_heads * 16 * 2
    assert parts.prefix_cache == 1000 + 4 * num_copies * a_position
    checkpointed = replace(split, gradient_checkpointing=True)
    assert worker_memory(shape, checkpointed, stage=0, num_workers=1).prefix_cache == 0


def test_worker_memory_gradient_checkpointing_keeps_inputs_and_one_layer() -> None:
    checkpointed = load_of(gradient_checkpointing=True)
    parts = worker_memory(llama2_7b(), checkpointed, stage=0, num_workers=1)
    assert parts.activations == 4 * 640 * (32 * 2 * 4096 + 20 * 4096 + 8 * 11008)
    assert parts.prefix_cache == 0


def test_worker_memory_int8_holds_linear_maps_in_one_byte() -> None:
    parts = worker_memory(llama2_7b(), load_of(is_int8=True), stage=0, num_workers=1)
    linear = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert parts.weights == linear + 2 * (6_738_415_616 - linear)
    assert parts.whole_for_use == 2 * 4096 * 11008


def test_shape_of_qwen_3_counts_norms_of_query_and_key() -> None:
    shape = shape_of(
        empty_model(
            Qwen3Config(
                vocab_size=50,
                hidden_size=32,
                intermediate_size=40,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=16,
            )
        )
    )
    assert (shape.has_query_norm, shape.query_size, shape.key_value_size) == (True, 64, 32)
    one_row = load_of(micro_batch_size=1, longest_row=1, longest_rest=1)
    parts = worker_memory(shape, one_row, stage=0, num_workers=1)
    float32 = 4 * (2 * 32 + 64 + 32)
    assert parts.activations == 2 * (float32 + 2 * (2 * 32 + 2 * 64 + 4 * 40) + 2 * 2 * 64)


@pytest.mark.parametrize("dtype_bytes", [2, 4])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_activations_are_what_autograd_saves(family: str, dtype_bytes: int) -> None:
    """The slope of saved bytes over tokens is between the estimate's and 30 % below it."""
    sizes: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    config = LlamaConfig(**sizes) if family == "llama" else Qwen3Config(**sizes)
    estimated, saved = [], []
    for length in (16, 48):
        load = load_of(
            micro_batch_size=2,
            longest_row=length,
            longest_rest=length,
            dtype_bytes=dtype_bytes,
        )
        shape = shape_of(empty_model(config))
        estimated.append(worker_memory(shape, load, stage=0, num_workers=1).activations)
        saved.append(_saved_bytes(config, 2, length, dtype_bytes))
    ratio = (saved[1] - saved[0]) / (estimated[1] - estimated[0])
    assert 0.7 < ratio < 1.02, ratio


def _saved_bytes(config: Any, rows: int, length: int, dtype_bytes: int) -> int:
    from transformers import AutoModelForCausalLM

    dtype = {2: torch.bfloat16, 4: torch.float32}[dtype_bytes]
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype)
    model.eval().requires_grad_(False)
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    seen: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    kept: list[torch.Tensor] = []  # so that no address is used twice
    embeds = torch.randn(rows, length, config.hidden_size, dtype=dtype, requires_grad=True)
    mask = torch.ones(rows, length, dtype=torch.long)
    mask[0, 0] = 0  # padding, as in training
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model(inputs_embeds=embeds, attention_mask=mask, use_cache=False)
    return sum(seen.values())


def choose(available: int, *, num_workers: int = 8, **changes: Any) -> int:
    return choose_sharding(
        llama2_7b(), load_of(**changes), num_workers=num_workers, available=available
    ).stage


def test_choose_sharding_takes_the_stage_without_sharding_where_the_sum_fits() -> None:
    assert choose(GPU_80_GB) == 1
    assert choose(GPU_80_GB, dtype_bytes=4) == 0
    assert choose(GPU_80_GB, num_workers=1) == 1
    assert choose(GPU_24_GB) == 3
    assert choose(GPU_24_GB, micro_batch_size=1, num_workers=1) == 1


def test_choose_sharding_explains_itself_with_both_sums() -> None:
    found = choose_sharding(llama2_7b(), load_of(), num_workers=8, available=GPU_24_GB)
    lines = found.explanation.splitlines()
    assert lines[0] == "memory of one of 8 worker(s) by estimate, in GB:"
    assert lines[1].split() == ["stage", "1", "stage", "3"]
    assert "  weights                      13.48      1.68" in lines
    assert "  sum                          28.65     18.80" in lines
    assert "  there is                     22.50" in lines
    assert lines[-1] == "  auto: deepspeed.zero_stage = 3"


def test_choose_sharding_model_that_fits_at_no_stage_is_refused_with_sums_and_advice() -> None:
    with pytest.raises(ModelError, match="fits at no ZeRO stage") as caught:
        choose(int(5 * GB), num_workers=2)
    for part in ("there is", "5.00", "23.8", "micro_batch_size", "gradient_checkpointing"):
        assert part in str(caught.value)


def test_choose_sharding_int8_is_never_sharded() -> None:
    assert choose(GPU_80_GB, is_int8=True) == 1
    with pytest.raises(ModelError, match="fits at no ZeRO stage"):
        choose(int(20 * GB), is_int8=True)


def test_choose_sharding_stage_that_is_asked_for_is_taken_even_if_it_does_not_fit() -> None:
    found = choose_sharding(llama2_7b(), load_of(), num_workers=8, available=GPU_24_GB, asked=0)
    assert found.stage == 0
    assert found.explanation.endswith("as asked, although the sum is more than there is")


def test_device_memory_of_a_cpu_is_shared_by_the_nodes_workers() -> None:
    alone, shared = (device_memory(torch.device("cpu"), number) for number in (1, 4))
    assert 0 < shared == pytest.approx(alone / 4, abs=1)


def test_worker_memory_one_worker_at_stage_3_holds_all_weights() -> None:
    alone = worker_memory(llama2_7b(), load_of(), stage=3, num_workers=1)
    small = replace(load_of(), max_live_parameters=10)
    assert alone.weights == 2 * 6_738_415_616
    assert worker_memory(llama2_7b(), small, stage=3, num_workers=1).whole_for_use == 20
