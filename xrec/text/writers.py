"""Load what writes explanations: the model with its adapter, or without it, or an endpoint.

All of them get the same prompt, apart from collaborative tokens, and their texts pass the same
rules and checks.
"""

import os
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from transformers import PreTrainedModel

from xrec.adapter.artifact import TrainedAdapter, read_adapter
from xrec.adapter.config import model_inputs
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
from xrec.errors import ConfigError, ModelError
from xrec.generate.builtin.engine import load_engine
from xrec.generate.explainer import Explainer, checker_of, model_fingerprint_of
from xrec.generate.loading import choose_engine, import_vllm_engine, sharing_weights
from xrec.generate.shared_engine import SharedEngine
from xrec.generate.text_rules import TextFinisher
from xrec.graph.artifact import read_graph
from xrec.graph.identity import check_graph_of_dataset
from xrec.llm.collaborative import Vocabulary
from xrec.llm.cpu import pack_linears
from xrec.llm.model import load_llm, load_tokenizer, resolve_device, stop_token_ids
from xrec.llm.prompt import PromptBuilder
from xrec.llm.source import model_fingerprint, resolve_model
from xrec.storage import Manifest, fingerprint_of, location_of, manifest_of
from xrec.text.asker import endpoint_key
from xrec.text.endpoint_engine import EndpointCore, WordTokenizer
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


def check_adapter(
    config: ExplanationsJobConfig, dataset: Manifest, graph: Manifest
) -> tuple[TrainedAdapter, Path]:
    """Return a job's adapter and the folder of its language model, which is not loaded.

    Raises ArtifactMismatchError unless the four belong together, ArtifactNotFoundError and
    ModelError.
    """
    assert config.llm is not None
    uris = config.artifact("graph"), config.artifact("dataset")
    check_graph_of_dataset(graph, dataset, *uris)
    adapter = read_adapter(location_of(config, "adapter"))
    adapter.check_graph(graph)
    folder = resolve_model(config.llm, config.storage)
    adapter.check_base_model(model_fingerprint(folder), config.llm.model)
    check_prompt(adapter.config.prompt, dataset)
    return adapter, folder


def load_explainer(
    config: ExplanationsJobConfig,
    device: Device = "auto",
    key: SecretStr | None = None,
    replies: ReplyStore | None = None,
    *,
    num_reserved_users: int = 0,
    is_streaming: bool = False,
    like: Explainer | None = None,
) -> Explainer:
    """Load the explainer of a job into this process.

    key, replies: of its endpoint, if one writes (`writer_key`, `writer_replies`).
    num_reserved_users: number of users to add to the graph, if there is an adapter, from index
        `dataset.num_users` on. Their vectors are zeros; the adapter uses what is later written to
        `graph.users`.
    is_streaming: whether each token is reported at once, for texts that are shown while they are
        being written.
    like: an explainer with the same language model and device. Its weights are shared, except with
        vLLM, whose process loads its own.

    Raises what `check_adapter` raises, and ConfigError if no language model is asked for.
    """
    if isinstance(config.engine, EndpointConfig):
        words = WordTokenizer()
        engine = SharedEngine(EndpointCore(config.engine, key, words, replies, batches_of(config)))
        inputs = {"endpoint": fingerprint_of(identity_of(config.engine))}
        return _from_words(config, words, engine, model_fingerprint_of(inputs))
    if config.llm is None:
        raise ConfigError(
            "llm is null, so there is no language model to load; only xrec backfill works without "
            "one, and writes sentences about what people did; set llm or engine.kind=endpoint",
            code="missing",
            key="llm",
        )
    if config.adapter is not None:
        return _with_adapter(config, device, num_reserved_users, like, is_streaming=is_streaming)
    if config.engine.kind == "vllm":
        raise ModelError(
            "engine.kind=vllm needs an adapter, but adapter is null; start the model with `vllm "
            "serve` and use engine.kind=endpoint, or set engine.kind=builtin",
            code="needs_adapter",
            key="engine.kind",
            saw="vllm",
        )
    folder = resolve_model(config.llm, config.storage)
    base = like.base if like is not None else load_llm(config.llm, folder, resolve_device(device))
    assert base is not None
    written_by = model_fingerprint_of({"base_model": model_fingerprint(folder)})
    return explainer_from_words(config, base, written_by, is_streaming=is_streaming)


def _with_adapter(
    config: ExplanationsJobConfig,
    device: Device,
    num_reserved_users: int,
    like: Explainer | None,
    *,
    is_streaming: bool,
) -> Explainer:
    assert config.llm is not None
    assert isinstance(config.engine, EngineConfig)
    dataset, graph = (
        read_dataset(location_of(config, "dataset")),
        read_graph(location_of(config, "graph")),
    )
    adapter, folder = check_adapter(config, dataset.manifest, graph.manifest)
    if num_reserved_users:
        graph = graph.with_more_users(num_reserved_users)
    on, base, model = resolve_device(device), None, None
    tokenizer = load_tokenizer(folder)
    if choose_engine(config.engine, on, folder) == "vllm":
        engine: Any = import_vllm_engine()(
            folder,
            tokenizer,
            adapter,
            graph,
            config.engine,
            dtype=config.llm.dtype,
            device=on,
            is_streaming=is_streaming,
        )
        builder = PromptBuilder(tokenizer, adapter.config.prompt, engine.vocabulary)
    else:
        base = like.base if like is not None else load_llm(config.llm, folder, on)
        assert base is not None
        pack_linears(base.requires_grad_(False))
        model = sharing_weights(base)
        builder = adapter.attach(model, tokenizer, graph)
        stops = stop_token_ids(model, tokenizer)
        engine = load_engine(model, stops, config.engine, is_streaming=is_streaming)
    inputs = model_inputs(adapter.config, adapter.fingerprint, graph.manifest)
    return Explainer(
        model,
        engine,
        PairPrompts(dataset, builder),
        dataset,
        graph,
        model_fingerprint_of(inputs),
        checker_of(dataset, config.storage),
        base,
    )


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


def _from_words(
    config: ExplanationsJobConfig,
    tokenizer: Any,
    engine: SharedEngine,
    written_by: str,
    model: PreTrainedModel | None = None,
) -> Explainer:
    dataset = read_dataset(location_of(config, "dataset"))
    check_prompt(config.prompt, dataset.manifest)
    pairs = PairPrompts(dataset, builder_from_words(dataset, tokenizer, config.prompt))
    checker = checker_of(dataset, config.storage)
    return Explainer(model, engine, pairs, dataset, None, written_by, checker, model)


def load_finisher(config: ExplanationsJobConfig) -> tuple[Dataset, PairPrompts, TextFinisher]:
    """Load what is needed to check finished texts, without weights of graph and language model.

    Raises what `check_adapter` raises.
    """
    dataset = read_dataset(location_of(config, "dataset"))
    if config.writer == "adapter":
        adapter, folder = check_adapter(config, dataset.manifest, manifest_of(config, "graph"))
        tokenizer: Any = load_tokenizer(folder)
        vocabulary = Vocabulary(len(tokenizer), dataset.num_users, dataset.num_items)
        builder = PromptBuilder(tokenizer, adapter.config.prompt, vocabulary)
    else:
        check_prompt(config.prompt, dataset.manifest)
        llm, storage = config.llm, config.storage
        tokenizer = WordTokenizer() if llm is None else load_tokenizer(resolve_model(llm, storage))
        builder = builder_from_words(dataset, tokenizer, config.prompt)
    pairs, checker = PairPrompts(dataset, builder), checker_of(dataset, config.storage)
    return dataset, pairs, TextFinisher(builder, pairs.titles, checker)


def builder_from_words(dataset: Dataset, tokenizer: Any, prompt: PromptConfig) -> PromptBuilder:
    """Return a builder of prompts without collaborative tokens."""
    words = Vocabulary(len(tokenizer), dataset.num_users, dataset.num_items, num_tokens=0)
    return PromptBuilder(tokenizer, prompt, words)
