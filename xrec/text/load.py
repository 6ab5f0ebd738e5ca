"""Makes the language model that a config describes, and says what its replies depend on."""

from typing import Any

from pydantic import SecretStr

from xrec.config.llm import LLMConfig
from xrec.config.shared import Device, StorageConfig
from xrec.config.text import EndpointModelConfig, EngineModelConfig
from xrec.errors import ConfigError
from xrec.llm.source import anywhere
from xrec.text.endpoint import EndpointModel
from xrec.text.model import LanguageModel


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
            "project"
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
    """The settings that replies depend on, but for sampling: not limits, waits and prices.

    llm: of the job, for an engine whose config names none. What model an engine has is not among
    them. Raises ConfigError if an engine has none.
    """
    if isinstance(config, EndpointModelConfig):
        names = {"kind", "base_url", "model", "structured_output", "bounds_strings", "extra"}
        return config.model_dump(mode="json", include=names)
    return {
        "kind": config.kind,
        "dtype": chosen_llm(config, llm).dtype,
    }
