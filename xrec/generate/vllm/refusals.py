"""Settings of vLLM with which texts would be wrong, or the device would be waited for.

`check_options` looks at a config's `engine.vllm_options` before vLLM starts, and
`check_vllm_config` at what vLLM has made of its settings, in each worker.
"""

from collections.abc import Mapping
from typing import Any

from vllm.config import VllmConfig
from vllm.platforms import current_platform

from xrec.errors import ModelError
from xrec.generate.vllm.plugin import Attachment

_STORES = (
    "such a store finds the KV cache by token ids, and the id of a user or item means "
    "another vector with another adapter or graph"
)
_DRAFTS = "a draft model reads token ids, and its vocabulary has no users and items"
_LORA = "vLLM then computes qkv_proj in a layer of its own, which does not add users and items"
_SPLITS = "a step is split, and what its tokens add in the layers is kept for a whole step"
_PENALTIES = (
    "a penalty counts the prompt's ids by their place in the vocabulary, where users and items "
    "have none"
)
_OURS = "xrec sets it"

_REFUSED: dict[str, str] = {
    "speculative_config": _DRAFTS,
    "spec_method": _DRAFTS,
    "spec_model": _DRAFTS,
    "spec_tokens": _DRAFTS,
    "enable_lora": _LORA,
    "default_mm_loras": _LORA,
    "kv_transfer_config": _STORES,
    "kv_offloading_size": _STORES,
    "pipeline_parallel_size": "the later stages would not get what tokens add in the layers",
    "prefill_context_parallel_size": _SPLITS,
    "enable_dbo": _SPLITS,
    "ubatch_size": _SPLITS,
    "enable_prompt_embeds": "vectors of a prompt come from its ids here",
    "generation_config": _PENALTIES,
    "override_generation_config": _PENALTIES,
    "logits_processors": "vLLM then leaves Model Runner V2, which adds users and items on GPUs",
    "model_impl": "only vLLM's own classes of the models have users and items",
    "data_parallel_size": "each actor of a backfill and each replica of an endpoint is one engine; "
    "set actors.num_actors or models.num_replicas",
    **dict.fromkeys(
        (
            "additional_config",
            "block_size",
            "config_format",
            "dtype",
            "enable_prefix_caching",
            "gpu_memory_utilization",
            "hf_overrides",
            "kv_cache_memory_bytes",
            "max_num_seqs",
            "model",
            "skip_tokenizer_init",
            "tensor_parallel_size",
            "tokenizer",
            "tokenizer_mode",
        ),
        _OURS,
    ),
}


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ModelError for an option of vLLM that cannot be used here, with the reason."""
    for name in options:
        if name in _REFUSED:
            raise ModelError(f"engine.vllm_options: {name} cannot be set: {_REFUSED[name]}")


def check_vllm_config(config: VllmConfig) -> None:
    """Raise ModelError where users and items have no vectors, or would be waited for."""
    if not isinstance(config.additional_config, Attachment):
        raise ModelError(
            "vLLM with users and items: additional_config is "
            f"{type(config.additional_config).__name__}; expected an Attachment "
            "(xrec.generate.vllm.plugin), which names the folder of adapter and vectors"
        )
    if current_platform.device_type != "cpu" and not config.use_v2_model_runner:
        raise ModelError(
            "vLLM with users and items needs its Model Runner V2 on a GPU, and this run has V1: "
            "there the ids of a step are on the device only, and each step would wait for them; "
            "unset VLLM_USE_V2_MODEL_RUNNER, and see in vLLM's log which setting made it choose V1"
        )
