"""What goes into a language model and comes out of it, its protocol, and how one is loaded."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from xrec.config import (
    Device,
    EndpointModelConfig,
    EngineModelConfig,
    LLMConfig,
    ReplyFailureReason,
    SamplingConfig,
    StorageConfig,
    identity_of,
)
from xrec.errors import ConfigError
from xrec.llm.source import anywhere, known_fingerprint, public_name

ObjectT = TypeVar("ObjectT", bound=BaseModel)


@dataclass(frozen=True)
class Message:
    """A message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Prompt(Generic[ObjectT]):
    """A conversation, and the class of the object that is to be the reply.

    check: what is wrong with what a valid object says, for the model to read; None if nothing is.
    """

    messages: tuple[Message, ...]
    schema: type[ObjectT]
    check: Callable[[ObjectT], str | None] = lambda value: None


@dataclass(frozen=True)
class Usage:
    """What a reply cost, or many.

    num_requests: how often the model was asked, refused requests included.
    """

    num_prompt_tokens: int = 0
    num_reply_tokens: int = 0
    num_requests: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.num_prompt_tokens + other.num_prompt_tokens,
            self.num_reply_tokens + other.num_reply_tokens,
            self.num_requests + other.num_requests,
        )

    @property
    def num_tokens(self) -> int:
        """Tokens of prompts and replies together."""
        return self.num_prompt_tokens + self.num_reply_tokens


def about_tokens(text: str) -> int:
    """About how many tokens a text is, for any tokenizer; English takes 0.25 a character."""
    return math.ceil(len(text) * 0.3)


@dataclass(frozen=True)
class ReplyFailure:
    """Why a prompt has no valid reply; the message never holds a key of an endpoint."""

    reason: ReplyFailureReason
    message: str


@dataclass(frozen=True)
class RawReply:
    """What the model wrote for the prompt at `index`.

    is_cut: whether the text ended because it reached the largest length.
    failure: why there is no text, if there is none.
    """

    index: int
    text: str
    usage: Usage
    is_cut: bool = False
    failure: ReplyFailure | None = None


@dataclass(frozen=True)
class Reply(Generic[ObjectT]):
    """The reply to the prompt at `index`: a valid object, or a failure.

    raw: the text as the model wrote it, the last one if it was asked twice.
    usage: of all that was asked for this prompt.
    """

    index: int
    value: ObjectT | None
    failure: ReplyFailure | None
    raw: str
    usage: Usage


class ScoreReply(BaseModel):
    """What a judge is to answer: a score from 0 to 100. Further fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    score: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_bare_number(cls, value: Any) -> Any:
        values = {"score": value} if isinstance(value, int | float) else value
        if isinstance(values, dict) and isinstance(values.get("score"), bool):
            raise ValueError("expected a number, saw a yes or no")
        return values


class LanguageModel(Protocol):
    """Writes replies to prompts; several threads may call it."""

    def write(self, prompts: Sequence[Prompt[Any]], sampling: SamplingConfig) -> Iterator[RawReply]:
        """Yield one reply for each prompt, in the order in which they are finished.

        A prompt that has no reply has a `failure`. Raises an XRecError if no prompt can have one.
        """
        ...


def endpoint_key(config: EndpointModelConfig, environment: Mapping[str, str]) -> SecretStr | None:
    """The key that `environment` holds; None if the config says that none is sent.

    Raises ConfigError if the variable is not set, or empty.
    """
    variable = config.api_key_variable
    if variable is None:
        return None
    if not (key := environment.get(variable, "").strip()):
        raise ConfigError(
            f"the environment variable {variable} is not set, and the key of {config.base_url} is "
            "expected there; set it, or set api_key_variable to null if no key is needed",
            code="key_missing",
            key=variable,
        )
    return SecretStr(key)


def load_language_model(
    config: EngineModelConfig | EndpointModelConfig,
    *,
    llm: LLMConfig | None = None,
    storage: StorageConfig | None = None,
    device: Device = "auto",
    num_threads: int = 1,
    key: SecretStr | None = None,
) -> LanguageModel:
    """The language model of `config`, in this process.

    llm: of the job, for an engine whose config names none. device, num_threads: what an engine
        computes on, and torch's threads. key: of an endpoint, as `endpoint_key` gives it.

    Raises ConfigError if no language model is named, ModelError if it cannot be loaded.
    """
    if isinstance(config, EndpointModelConfig):
        from xrec.text.endpoint import EndpointModel  # openai, which an engine does not need

        return EndpointModel(config, key)
    from xrec.text.engine_model import load_engine_model  # torch, which an endpoint does not need

    return load_engine_model(
        config,
        chosen_llm(config, llm),
        storage or StorageConfig(),
        device=device,
        num_threads=num_threads,
    )


def chosen_llm(config: EngineModelConfig, llm: LLMConfig | None) -> LLMConfig:
    """The language model of an engine; raises ConfigError if there is none."""
    chosen = config.llm or llm
    if chosen is None:
        raise ConfigError(
            "a language model of kind engine needs llm; give it in this section, or as llm of the "
            "project",
            code="missing",
            key="llm",
        )
    return chosen


def model_anywhere(
    config: EngineModelConfig | EndpointModelConfig,
) -> EngineModelConfig | EndpointModelConfig:
    """The same model for a process that runs in another folder: no path is relative."""
    if isinstance(config, EndpointModelConfig) or config.llm is None:
        return config
    return config.model_copy(update={"llm": anywhere(config.llm)})


def model_settings(
    config: EngineModelConfig | EndpointModelConfig, llm: LLMConfig | None
) -> dict[str, Any]:
    """Return the options that replies depend on.

    llm: of the job, for an engine whose config names none. What model an engine has is not among
    them. Raises ConfigError if an engine has none.
    """
    if isinstance(config, EngineModelConfig):
        config = config.model_copy(update={"llm": chosen_llm(config, llm)})
    return identity_of(config)


def model_identity(
    config: EngineModelConfig | EndpointModelConfig,
    llm: LLMConfig | None,
    storage: StorageConfig | None = None,
) -> dict[str, Any]:
    """Return `model_settings` with the model's fingerprint, or its name if it is not here."""
    settings = model_settings(config, llm)
    if isinstance(config, EndpointModelConfig):
        return settings
    chosen = chosen_llm(config, llm)
    at = f"@{chosen.revision}" if chosen.revision else ""
    found = known_fingerprint(chosen, storage or StorageConfig(), download=False)
    return {**settings, "base_model": found or public_name(chosen.model) + at}
