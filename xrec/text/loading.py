"""Loads the language model that a config names, and identifies it."""

from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from xrec.config import (
    Device,
    EndpointConfig,
    EndpointModelConfig,
    EngineModelConfig,
    JobConfig,
    StorageConfig,
    identity_of,
)
from xrec.errors import ConfigError
from xrec.llm.source import known_fingerprint, public_name
from xrec.text.asker import Asker
from xrec.text.messages import LanguageModel
from xrec.text.reply_store import batches_of, open_replies

ModelConfig = EngineModelConfig | EndpointModelConfig


def endpoint_key(config: EndpointConfig, environment: Mapping[str, str]) -> SecretStr | None:
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
    job: JobConfig | None = None,
    device: Device = "auto",
    num_threads: int = 1,
    key: SecretStr | None = None,
) -> LanguageModel:
    """Load a language model into this process; raises ModelError if that fails.

    job: whose workspace and storage are used. device, num_threads: an engine's device, and the
        number of torch threads. key: the endpoint's key (`endpoint_key`).
    """
    if isinstance(config, EndpointModelConfig):
        from xrec.text.endpoint import EndpointModel  # engines do not need openai

        return EndpointModel(config, key, None if job is None else batches_of(job))
    from xrec.text.engine_model import load_engine_model  # endpoints do not need torch

    storage = StorageConfig() if job is None else job.storage
    return load_engine_model(config, storage, device, num_threads)


def make_asker(
    job: JobConfig,
    config: ModelConfig,
    model: LanguageModel,
    *,
    run: str,
    attempt: int = 0,
    max_tokens: float = float("inf"),
) -> Asker:
    """Return what asks `model`, with the replies that the job's workspace has of it.

    run, attempt: see `ReplyStore`; max_tokens: see `Asker`.
    """
    if isinstance(config, EndpointModelConfig):
        at_once = config.concurrency
    else:
        at_once = config.engine.max_rows
    identity = model_identity(config, job.storage)
    replies = open_replies(job, identity, run=run, at_once=at_once, attempt=attempt)
    return Asker(model, config, replies, max_tokens)


def model_identity(config: ModelConfig, storage: StorageConfig | None = None) -> dict[str, Any]:
    """Return the settings that replies depend on, with the fingerprint of an engine's weights.

    The weights' name takes its place if they are not on disk.
    """
    settings = identity_of(config)
    if isinstance(config, EndpointModelConfig):
        return settings
    name = f"{public_name(config.llm.model)}@{config.llm.revision}".removesuffix("@None")
    fingerprint = known_fingerprint(config.llm, storage or StorageConfig(), download=False)
    return {**settings, "base_model": fingerprint or name}
