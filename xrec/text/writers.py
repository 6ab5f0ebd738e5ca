"""Load what writes explanations: the model with its adapter, or without it, or an endpoint.

All of them get the same prompt, apart from collaborative tokens, and their texts pass the same
rules and checks.
"""

import os
from typing import Any

from pydantic import SecretStr
from transformers import PreTrainedModel

from xrec.adapter.pairs import PairPrompts
from xrec.aspects import check_prompt
from xrec.config import (
    Device,
    EndpointConfig,
    EngineConfig,
    ExplanationsJobConfig,
    PromptConfig,
    identity_of,
)
from xrec.data import Dataset, read_dataset
from xrec.errors import ModelError
from xrec.generate.builtin.engine import load_engine
from xrec.generate.explainer import Explainer, checker_of
from xrec.generate.loading import load_explainer, load_finisher, model_fingerprint_of, sources_of
from xrec.generate.shared_engine import SharedEngine
from xrec.generate.text_rules import TextFinisher
from xrec.llm.collaborative import Vocabulary
from xrec.llm.model import load_llm, load_tokenizer, resolve_device, stop_token_ids
from xrec.llm.prompt import PromptBuilder
from xrec.llm.source import model_fingerprint, resolve_model
from xrec.storage import fingerprint_of, location_of
from xrec.text.endpoint_engine import EndpointCore, WordTokenizer
from xrec.text.loading import endpoint_key
from xrec.text.reply_store import ReplyStore, batches_of, open_replies


def writer_key(config: ExplanationsJobConfig) -> SecretStr | None:
    """Return the key of the endpoint that writes, or None; raise ConfigError if it is not set."""
    engine = config.engine
    return endpoint_key(engine, os.environ) if isinstance(engine, EndpointConfig) else None


def writer_replies(config: ExplanationsJobConfig, run: str, attempt: int = 0) -> ReplyStore | None:
    """Open the replies of the endpoint that writes, or return None; see `ReplyStore`."""
    engine = config.engine
    if not isinstance(engine, EndpointConfig):
        return None
    at_once = engine.concurrency
    return open_replies(config, identity_of(engine), run=run, at_once=at_once, attempt=attempt)


def load_writer(
    config: ExplanationsJobConfig,
    device: Device,
    key: SecretStr | None = None,
    replies: ReplyStore | None = None,
    *,
    num_reserved_users: int = 0,
    is_streaming: bool = False,
    like: Explainer | None = None,
) -> Explainer:
    """Load the explainer of a job into this process.

    key, replies: of its endpoint, if one writes (`writer_key`, `writer_replies`).
    num_reserved_users, is_streaming, like: see `load_explainer`; without an adapter, there are no
        users to reserve.

    Raises what `sources_of` and `load_explainer` raise, also ConfigError if nothing but sentences
    about people is asked for.
    """
    if isinstance(config.engine, EndpointConfig):
        words = WordTokenizer()
        engine = SharedEngine(EndpointCore(config.engine, key, words, replies, batches_of(config)))
        inputs = {"endpoint": fingerprint_of(identity_of(config.engine))}
        return _from_words(config, words, engine, model_fingerprint_of(inputs))
    if config.llm is None or config.adapter is not None:
        return load_explainer(
            sources_of(config),
            device=device,
            engine=config.engine,
            num_reserved_users=num_reserved_users,
            is_streaming=is_streaming,
            like=like,
        )
    if config.engine.kind == "vllm":
        raise ModelError(
            "engine.kind=vllm needs an adapter, but adapter is null; start the model with `vllm "
            "serve` and use engine.kind=endpoint, or set engine.kind=builtin",
            code="needs_adapter",
            key="engine.kind",
            saw="vllm",
        )
    folder = resolve_model(config.llm, config.storage)
    if like is not None and like.model is not None:
        model = like.model
    else:
        model = load_llm(config.llm, folder, resolve_device(device))
    written_by = model_fingerprint_of({"base_model": model_fingerprint(folder)})
    return explainer_from_words(config, model, written_by, is_streaming=is_streaming)


def explainer_from_words(
    config: ExplanationsJobConfig,
    model: PreTrainedModel,
    written_by: str,
    *,
    is_streaming: bool = False,
) -> Explainer:
    """Return an explainer whose builtin engine runs `model`, with the tokenizer of `config.llm`.

    written_by: the fingerprint of the model.
    """
    assert config.llm is not None
    assert isinstance(config.engine, EngineConfig)
    tokenizer = load_tokenizer(resolve_model(config.llm, config.storage))
    stops = stop_token_ids(model, tokenizer)
    engine = load_engine(model, stops, config.engine, is_streaming=is_streaming)
    return _from_words(config, tokenizer, engine, written_by, model)


def load_finisher_of(config: ExplanationsJobConfig) -> tuple[Dataset, PairPrompts, TextFinisher]:
    """Load what is needed to check finished texts, without weights; raise what reading raises."""
    if config.writer == "adapter":
        return load_finisher(sources_of(config))
    tokenizer: Any = WordTokenizer()
    if config.llm is not None:
        tokenizer = load_tokenizer(resolve_model(config.llm, config.storage))
    dataset, pairs = _pairs_from_words(config, tokenizer)
    checker = checker_of(dataset, config.storage)
    return dataset, pairs, TextFinisher(pairs.builder, pairs.titles, checker)


def _from_words(
    config: ExplanationsJobConfig,
    tokenizer: Any,
    engine: SharedEngine,
    written_by: str,
    model: PreTrainedModel | None = None,
) -> Explainer:
    dataset, pairs = _pairs_from_words(config, tokenizer)
    checker = checker_of(dataset, config.storage)
    return Explainer(model, engine, pairs, dataset, None, written_by, checker)


def _pairs_from_words(config: ExplanationsJobConfig, tokenizer: Any) -> tuple[Dataset, PairPrompts]:
    dataset = read_dataset(location_of(config, "dataset"))
    check_prompt(config.prompt, dataset.manifest)
    return dataset, PairPrompts(dataset, builder_from_words(dataset, tokenizer, config.prompt))


def builder_from_words(dataset: Dataset, tokenizer: Any, prompt: PromptConfig) -> PromptBuilder:
    """Return a builder of prompts without collaborative tokens."""
    words = Vocabulary(len(tokenizer), dataset.num_users, dataset.num_items, num_tokens=0)
    return PromptBuilder(tokenizer, prompt, words)
