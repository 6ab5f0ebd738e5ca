"""Loads the language model that a config names, and identifies it."""

from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from xrec.config import (
    Device,
    EndpointModelConfig,
    EngineModelConfig,
    LLMConfig,
    StorageConfig,
    identity_of,
)
from xrec.errors import ConfigError
from xrec.llm.source import known_fingerprint, public_name
from xrec.text.messages import LanguageModel

ModelConfig = EngineModelConfig | EndpointModelConfig


def endpoint_key(config: EndpointModelConfig, environment: Mapping[str, str]) -> SecretStr | None:
    """Return the endpoint's key, or None if `api_key_variable` is null.

    Raises ConfigError if the environment variable is unset or empty.
    """
    variable = config.api_key_variable
    if variable is None:
        return None
    if not (key := environment.get(variable, "").strip()):
        raise ConfigError(
            f"the environment variable {variable} is not set; set it to the key for "
            f"{config.base_url}, or set api_key_variable to null if no key is needed",
            code="key_missing",
            key=variable,
        )
    return SecretStr(key)


def load_language_model(
    config: ModelConfig,
    *,
    llm: LLMConfig | None = None,
    storage: StorageConfig | None = None,
    device: Device = "auto",
    num_threads: int = 1,
    key: SecretStr | None = None,
) -> LanguageModel:
    """Load a language model into this process.

    llm: the job's language model, for an engine whose config names none. device, num_threads: an
        engine's device, and the number of torch threads. key: the endpoint's key (`endpoint_key`).

    Raises ConfigError if no language model is named, ModelError if it cannot be loaded.
    """
    if isinstance(config, EndpointModelConfig):
        from xrec.text.endpoint import EndpointModel  # engines do not need openai

        return EndpointModel(config, key)
    from xrec.text.engine_model import load_engine_model  # endpoints do not need torch

    storage = storage or StorageConfig()
    return load_engine_model(config, chosen_llm(config, llm), storage, device, num_threads)


def chosen_llm(config: EngineModelConfig, llm: LLMConfig | None) -> LLMConfig:
    """Return the engine's own language model, or else `llm`; raise ConfigError without either."""
    chosen = config.llm or llm
    if chosen is None:
        raise ConfigError(
            "a language model of kind engine needs llm; set it in this section, or in the project",
            code="missing",
            key="llm",
        )
    return chosen


def model_settings(config: ModelConfig, llm: LLMConfig | None) -> dict[str, Any]:
    """Return the settings that replies depend on, except an engine's weights.

    llm: the job's language model, for an engine whose config names none. Raises ConfigError if an
        engine has neither.
    """
    if isinstance(config, EngineModelConfig):
        config = config.model_copy(update={"llm": chosen_llm(config, llm)})
    return identity_of(config)


def model_identity(
    config: ModelConfig, llm: LLMConfig | None, storage: StorageConfig | None = None
) -> dict[str, Any]:
    """Return `model_settings` with the fingerprint of the weights, or their name if not on disk."""
    settings = model_settings(config, llm)
    if isinstance(config, EndpointModelConfig):
        return settings
    chosen = chosen_llm(config, llm)
    name = f"{public_name(chosen.model)}@{chosen.revision}".removesuffix("@None")
    fingerprint = known_fingerprint(chosen, storage or StorageConfig(), download=False)
    return {**settings, "base_model": fingerprint or name}
