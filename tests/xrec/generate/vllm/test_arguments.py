"""What vLLM, here a mock, is started with: memory that is free on the card; spawned processes."""

import importlib
import os
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from xrec.config.llm import EngineConfig
from xrec.errors import ModelError

# Free and total GiB of the GPUs by their index.
GPUS = {0: (10, 80), 1: (72, 80), 2: (40, 80)}


@pytest.fixture
def arguments(mocked_vllm):
    """The module, where vLLM sees GPU 1 and GPU 2 in this order."""
    mocked_vllm.current_platform.device_type = "cuda"
    mocked_vllm.current_platform.visible_device_id_to_physical_device_id = lambda place: place + 1
    mocked_vllm.current_platform.supported_dtypes = [torch.float16, torch.float32]
    mocked_vllm.import_pynvml.return_value = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda index: SimpleNamespace(
            free=GPUS[index][0], total=GPUS[index][1]
        ),
    )
    return importlib.import_module("xrec.generate.vllm.arguments")


def started_with(arguments: ModuleType, mocked_vllm: MagicMock, **settings: Any) -> dict[str, Any]:
    given = {"max_rows": 7, "kv_cache_gib": 1.0, "gpu_memory_share": 0.5, **settings}
    device = given.pop("device", torch.device("cuda"))
    arguments.engine_arguments(
        Path("llm"),
        SimpleNamespace(architectures=["Qwen3ForCausalLM"]),
        "direct",
        EngineConfig(kind="vllm", **given),
        dtype=torch.float16,
        device=device,
    )
    return dict(mocked_vllm.EngineArgs.call_args.kwargs)


@pytest.mark.parametrize(("num_gpus", "expected"), [(1, 0.45), (2, 0.25)])
def test_memory_is_the_share_free_on_the_fullest_gpu(arguments, mocked_vllm, num_gpus, expected):
    found = started_with(arguments, mocked_vllm, tensor_parallel_size=num_gpus)
    assert found["gpu_memory_utilization"] == pytest.approx(expected)
    assert "kv_cache_memory_bytes" not in found
    assert "block_size" not in found


def test_memory_on_a_cpu_is_that_of_the_kv_cache(arguments, mocked_vllm):
    mocked_vllm.current_platform.device_type = "cpu"
    found = started_with(arguments, mocked_vllm, device=torch.device("cpu"))
    assert found["kv_cache_memory_bytes"] == 1 << 30
    assert "gpu_memory_utilization" not in found


def test_arguments_name_our_class_of_the_family_and_take_further_options(arguments, mocked_vllm):
    found = started_with(arguments, mocked_vllm, vllm_options={"max_num_batched_tokens": 16384})
    assert found["hf_overrides"] == {"architectures": ["CollaborativeQwen3ForCausalLM"]}
    assert found["additional_config"] == {"injection": "direct"}
    assert found["max_num_batched_tokens"] == 16384
    assert found["enable_prefix_caching"] is True
    assert found["stream_interval"] > 10**6  # of a text that nobody reads while it is written


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("speculative_config", "a draft model would read place-holders"),
        ("enable_lora", "the layers would not get what users and items add"),
        ("pipeline_parallel_size", "the layers would not get what users and items add"),
        ("enable_dbo", "the layers would not get what users and items add"),
        ("limit_mm_per_prompt", "users and items are items of a modality"),
        ("logits_processors", "only the job's config decides how texts are generated"),
        ("disable_log_stats", "vLLM's statistics say whether the model's output is a number"),
        ("generation_config", "xrec sets it"),
        ("max_num_seqs", "xrec sets it"),
    ],
)
def test_options_that_would_break_texts_are_refused(arguments, mocked_vllm, option, reason):
    with pytest.raises(ModelError, match=f"{option} cannot be set: {reason}"):
        started_with(arguments, mocked_vllm, vllm_options={option: 1})


def test_dtype_auto_is_bfloat16_only_where_vllms_platform_has_it(arguments, mocked_vllm):
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert arguments.resolve_vllm_dtype("auto", gpu) == torch.float32
    mocked_vllm.current_platform.supported_dtypes = [torch.bfloat16]
    assert arguments.resolve_vllm_dtype("auto", gpu) == torch.bfloat16
    assert arguments.resolve_vllm_dtype("auto", cpu) == torch.float32
    assert arguments.resolve_vllm_dtype("float16", gpu) == torch.float16


def test_vllms_processes_are_spawned_and_the_environment_is_as_before(arguments, monkeypatch):
    """A forked process could not use the GPU: looking for one initialises the driver here."""
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("VLLM_WORKER_MULTIPROC_METHOD", raising=False)
    with arguments.start_settings(3):
        assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
        assert os.environ["OMP_NUM_THREADS"] == "3"
    assert "VLLM_WORKER_MULTIPROC_METHOD" not in os.environ
    assert os.environ["OMP_NUM_THREADS"] == "5"
