"""A text-only language model that answers in JSON: an engine of ours, or an OpenAI-style endpoint.

Keys of endpoints never stand in a config. The config names the environment variable that has it.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from xrec.config.base import Config
from xrec.config.llm import BuiltinEngineConfig, LLMConfig

ReplyFailureReason = Literal[
    "empty_reply",
    "cut_off",
    "invalid_json",
    "invalid_object",
    "failed_check",
    "refused",
    "prompt_too_long",
    "bad_request",
    "rate_limited",
    "endpoint_error",
    "broken_response",
    "timeout",
    "unreachable",
]
"""Why a prompt has no valid reply."""


class SamplingConfig(Config):
    """How a reply is drawn from the model."""

    max_tokens: int = Field(512, ge=1)
    """Longest reply, in tokens; one that is cut off is asked for again once."""
    temperature: float | None = Field(0.0, ge=0, le=2)
    """Temperature of sampling. If null, an endpoint uses its own, and an engine 0."""
    seed: int = Field(0, ge=0)
    """Seed of sampling, which few endpoints heed."""


class EngineModelConfig(Config):
    """A language model in processes of ours; its decoding is held to the schema."""

    kind: Literal["engine"]
    llm: LLMConfig | None = None
    """If null, it is the llm of the job."""
    engine: BuiltinEngineConfig = BuiltinEngineConfig()
    sampling: SamplingConfig = SamplingConfig()


class EndpointModelConfig(Config):
    """A language model behind an endpoint that speaks the OpenAI API (chat completions).

    Limits hold for one process of xrec; jobs ask from one.
    """

    kind: Literal["endpoint"]
    base_url: str = "https://api.openai.com/v1"
    """URL of the API, without /chat/completions."""
    model: str = Field(min_length=1)
    """The model's name at the endpoint."""
    api_key_variable: str | None = "OPENAI_API_KEY"
    """The environment variable that holds the key. If null, no key is sent."""
    structured_output: Literal["json_schema", "bounded_json_schema", "prompt"] = "json_schema"
    """How the endpoint is told to write JSON: by the schema, by one that bounds strings too (for
    small models of vLLM and llama.cpp), or in words."""
    extra: Mapping[str, Any] = Field(default_factory=dict)
    """Further fields of each request, such as {reasoning_effort: low}; null leaves one of ours out.
    They are written into artifacts, so no secret may stand here."""
    concurrency: int = Field(16, ge=1)
    """Largest number of requests that are under way at a time."""
    requests_per_minute: float | None = Field(None, gt=0)
    """Largest number of requests in a minute. If null, there is no limit: what the endpoint refuses
    for a limit of its own is repeated when it says."""
    timeout_seconds: float = Field(120.0, gt=0)
    """How long to wait for the answer to a request, in seconds."""
    max_retries: int = Field(10, ge=0)
    """How often a request is repeated that the endpoint did not answer, or answered with 408, 409,
    429 or 5xx."""
    sampling: SamplingConfig = SamplingConfig()

    @field_validator("base_url")
    @classmethod
    def _is_a_plain_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("expected a URL without user, password, query and fragment")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("expected a URL that begins with http:// or https:// and a host")
        return value.rstrip("/")


LanguageModelConfig = Annotated[
    EngineModelConfig | EndpointModelConfig, Field(discriminator="kind")
]
"""A text-only language model."""
