"""Load an explainer from artifacts, after checking that they belong together."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from xrec.adapter.artifact import TrainedAdapter, read_adapter
from xrec.adapter.config import model_inputs
from xrec.adapter.pairs import PairPrompts
from xrec.aspects import check_prompt
from xrec.config import Device, EngineConfig, ExplanationsJobConfig, LLMConfig, StorageConfig
from xrec.data import Dataset, read_dataset
from xrec.errors import ConfigError, ModelError, install_command
from xrec.generate.builtin.engine import load_engine
from xrec.generate.explainer import Explainer, checker_of
from xrec.generate.text_rules import TextFinisher
from xrec.generate.vllm.plugin import check_installed_vllm, unknown_family
from xrec.graph.artifact import read_graph
from xrec.graph.identity import check_graph_of_dataset
from xrec.llm.collaborative import Vocabulary
from xrec.llm.cpu import pack_linears
from xrec.llm.model import (
    load_llm,
    load_tokenizer,
    read_text_config,
    resolve_device,
    stop_token_ids,
)
from xrec.llm.prompt import PromptBuilder
from xrec.llm.source import model_fingerprint, resolve_model
from xrec.storage import Manifest, fingerprint_of, open_location, read_manifest

logger = logging.getLogger("xrec")


@dataclass(frozen=True)
class Sources:
    """The artifacts and settings that an explainer is loaded from; can be pickled."""

    dataset: str
    graph: str
    adapter: str
    llm: LLMConfig
    storage: StorageConfig


def sources_of(config: ExplanationsJobConfig) -> Sources:
    """Return the sources named in a job's config; raise ConfigError without a language model."""
    if config.llm is None:
        raise ConfigError(
            "llm is null, so there is no language model to load; only xrec backfill works without "
            "one, and writes sentences about what people did; set llm or engine.kind=endpoint",
            code="missing",
            key="llm",
        )
    uris = {name: config.artifact(name) for name in ("dataset", "graph", "adapter")}
    return Sources(**uris, llm=config.llm, storage=config.storage)


@dataclass(frozen=True)
class CheckedSources:
    """Sources that belong together; `llm` is the folder of the language model."""

    dataset: Manifest
    graph: Manifest
    adapter: TrainedAdapter
    llm: Path

    @property
    def model(self) -> dict[str, str]:
        """The fingerprints of language model, adapter and graph (`model_inputs`)."""
        return model_inputs(self.adapter.config, self.adapter.fingerprint, self.graph)


def model_fingerprint_of(inputs: Mapping[str, str]) -> str:
    """Return the combined fingerprint of what writes texts, for example `model_inputs`."""
    return fingerprint_of([*inputs.values()])


def check_sources(sources: Sources) -> CheckedSources:
    """Check that dataset, graph, adapter and language model belong together, without loading them.

    Raises ArtifactNotFoundError, ArtifactMismatchError or ModelError.
    """
    dataset = read_manifest(open_location(sources.dataset, sources.storage), "dataset")
    return _check(sources, dataset, _graph_of(sources))


def _graph_of(sources: Sources) -> Manifest:
    return read_manifest(open_location(sources.graph, sources.storage), "graph")


def load_explainer(
    sources: Sources,
    *,
    device: Device,
    engine: EngineConfig,
    num_reserved_users: int = 0,
    is_streaming: bool = False,
    like: Explainer | None = None,
) -> Explainer:
    """Load an explainer into this process.

    num_reserved_users: number of users to add to the graph, from index `dataset.num_users` on.
        Their vectors are zeros; the adapter uses what is later written to `graph.users`.
    is_streaming: whether each token is reported at once, for texts that are shown while they are
        being written.
    like: an explainer with the same language model and device. Its weights are shared, except with
        vLLM, whose process loads its own.

    Raises what `check_sources` raises, and ModelError.
    """
    dataset = read_dataset(open_location(sources.dataset, sources.storage))
    graph = read_graph(open_location(sources.graph, sources.storage))
    checked = _check(sources, dataset.manifest, graph.manifest)
    if num_reserved_users:
        graph = graph.with_more_users(num_reserved_users)
    on, base, model = resolve_device(device), None, None
    tokenizer = load_tokenizer(checked.llm)
    if choose_engine(engine, on, checked.llm) == "vllm":
        try:
            check_installed_vllm()
            from xrec.generate.vllm.engine import VllmEngine
        except ImportError as error:
            raise ModelError(
                f"engine.kind=vllm: vLLM cannot be imported ({error}); "
                f"run: {install_command('vllm')}, or set engine.kind=builtin",
                code="vllm_not_installed",
                key="engine.kind",
                saw="vllm",
            ) from error
        shared: Any = VllmEngine(
            checked.llm,
            tokenizer,
            checked.adapter,
            graph,
            engine,
            dtype=sources.llm.dtype,
            device=on,
            is_streaming=is_streaming,
        )
        builder = PromptBuilder(tokenizer, checked.adapter.config.prompt, shared.vocabulary)
    else:
        base = like.base if like is not None else load_llm(sources.llm, checked.llm, on)
        assert base is not None
        pack_linears(base.requires_grad_(False))
        model = sharing_weights(base)
        builder = checked.adapter.attach(model, tokenizer, graph)
        stops = stop_token_ids(model, tokenizer)
        shared = load_engine(model, stops, engine, is_streaming=is_streaming)
    return Explainer(
        model,
        shared,
        PairPrompts(dataset, builder),
        dataset,
        graph,
        model_fingerprint_of(checked.model),
        checker_of(dataset, sources.storage),
        base,
    )


def sharing_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of the model's modules with the same weights, for adapters of its own."""
    packed = (getattr(vars(part).get("forward"), "args", ()) for part in model.modules())
    shared = (*model.parameters(), *model.buffers(), *chain.from_iterable(packed))
    return copy.deepcopy(model, {id(each): each for each in shared if torch.is_tensor(each)})


def load_finisher(sources: Sources) -> tuple[Dataset, PairPrompts, TextFinisher]:
    """Load what is needed to check finished texts, without the weights of graph and language model.

    Raises what `check_sources` raises.
    """
    dataset = read_dataset(open_location(sources.dataset, sources.storage))
    checked = _check(sources, dataset.manifest, _graph_of(sources))
    tokenizer = load_tokenizer(checked.llm)
    vocabulary = Vocabulary(len(tokenizer), dataset.num_users, dataset.num_items)
    builder = PromptBuilder(tokenizer, checked.adapter.config.prompt, vocabulary)
    pairs = PairPrompts(dataset, builder)
    checker = checker_of(dataset, sources.storage)
    return dataset, pairs, TextFinisher(builder, pairs.titles, checker)


def _check(sources: Sources, dataset: Manifest, graph: Manifest) -> CheckedSources:
    check_graph_of_dataset(graph, dataset, sources.graph, sources.dataset)
    adapter = read_adapter(open_location(sources.adapter, sources.storage))
    adapter.check_graph(graph)
    folder = resolve_model(sources.llm, sources.storage)
    adapter.check_base_model(model_fingerprint(folder), sources.llm.model)
    check_prompt(adapter.config.prompt, dataset)
    return CheckedSources(dataset, graph, adapter, folder)


def choose_engine(
    config: EngineConfig, device: torch.device, model_folder: Path
) -> Literal["builtin", "vllm"]:
    """Return the engine for the model in `model_folder` on `device`; log why `auto` chose it.

    Raises ModelError if `config` has options for vLLM but `auto` cannot choose it.
    """
    if config.kind != "auto":
        return config.kind
    why_not = _why_not_vllm(device, model_folder)
    if why_not is None:
        logger.info("engine: vllm, because there is a GPU and vLLM supports the model")
        return "vllm"
    if config.vllm:
        raise ModelError(
            f"engine.vllm = {config.vllm} needs vLLM, but engine.kind=auto cannot choose it: "
            f"{why_not}",
            code="needs_vllm",
            key="engine.vllm",
        )
    logger.info("engine: builtin, because %s", why_not)
    return "builtin"


def _why_not_vllm(device: torch.device, model_folder: Path) -> str | None:
    if device.type != "cuda":
        return f"the device is {device.type}, and auto only chooses vLLM for GPUs"
    try:
        check_installed_vllm()
    except ImportError as error:
        return f"vLLM cannot be imported ({error}); to install it, run: {install_command('vllm')}"
    except ModelError as error:
        return str(error)
    unknown = unknown_family(read_text_config(model_folder).architectures)
    return None if unknown is None else f"{model_folder.name}: {unknown}"
