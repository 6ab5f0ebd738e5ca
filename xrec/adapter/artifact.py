"""The adapter artifact: `adapter.safetensors`, `adapter_config.json` and a manifest.

It holds neither the language model nor the graph. The config and the weights are enough to use the
adapter, and the fingerprint depends on these two only; the training log is beside them. The
config's fingerprints let xrec refuse a model or a graph that the adapter was not trained for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from pydantic import Field, ValidationError
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from xrec.adapter.model import Adapters, attach_adapters, build_adapters, input_vectors
from xrec.config.adapter import AdapterModelConfig
from xrec.config.base import Config
from xrec.config.llm import Dtype, LLMConfig
from xrec.config.prompt import PromptConfig
from xrec.config.shared import Device, StorageConfig
from xrec.errors import ArtifactMismatchError
from xrec.graph.artifact import START_FROM, GraphEmbeddings
from xrec.llm.model import load_model, load_tokenizer, resolve_device, resolve_dtype
from xrec.llm.prompt import PromptBuilder
from xrec.llm.source import model_fingerprint, resolve_model
from xrec.storage import (
    Location,
    Manifest,
    ancestry,
    content_hash,
    fingerprint_of,
    open_location,
    read_content,
    read_manifest,
    write_contents,
    write_manifest,
)
from xrec.version import __version__

WEIGHTS = "adapter.safetensors"
CONFIG = "adapter_config.json"


class AdapterConfig(Config):
    """The content of `adapter_config.json`.

    `base_model` is a name for readers (`xrec.llm.source.public_name`), at `base_model_revision` of
    the hub; only the fingerprints decide whether a model or a graph is the right one.
    """

    embedding_dim: int
    hidden_size: int
    model: AdapterModelConfig
    prompt: PromptConfig
    base_model: str
    base_model_revision: str | None = Field(None, exclude_if=lambda value: value is None)
    base_model_fingerprint: str
    graph_fingerprint: str


@dataclass(frozen=True)
class TrainedAdapter:
    """An adapter in memory; `manifest` is None if it is of no artifact."""

    adapters: Adapters
    config: AdapterConfig
    manifest: Manifest | None = None

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, storage: StorageConfig | None = None
    ) -> "TrainedAdapter":
        """The adapter in a folder, local or s3://; raises what `read_adapter` raises."""
        return read_adapter(open_location(str(folder), storage))

    @property
    def fingerprint(self) -> str:
        """Identifies the adapter: the manifest's fingerprint, or that of config and weights."""
        if self.manifest is not None:
            return self.manifest.fingerprint
        content = _content(self.adapters.state_dict(), self.config)
        return fingerprint_of({name: content_hash(data) for name, data in content.items()})

    def load_base_model(
        self,
        source: str | None = None,
        *,
        revision: str | None = None,
        dtype: Dtype = "auto",
        device: Device = "auto",
        storage: StorageConfig | None = None,
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The frozen model that the adapter was trained for, and its tokenizer.

        `source` and `revision` take what `llm.model` and `llm.revision` take; if `source` is None,
        those in the adapter's config are used. Raises ModelError if the model cannot be loaded, and
        ArtifactMismatchError if it is not the one that the adapter was trained for.
        """
        if source is None:
            source = self.config.base_model
            revision = revision or self.config.base_model_revision
        folder = resolve_model(LLMConfig(model=source, revision=revision), storage)
        self.check_base_model(model_fingerprint(folder), source)
        torch_device = resolve_device(device)
        return load_model(
            folder, dtype=resolve_dtype(dtype, torch_device), device=torch_device
        ), load_tokenizer(folder)

    def attach(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, graph: GraphEmbeddings
    ) -> PromptBuilder:
        """Add the users and items of `graph` to `model` as tokens, in place.

        Returns the builder of prompts that hold these tokens. The model's generation settings lose
        their penalties for repeated prompt tokens, because a user or item has no logit that could
        be penalized.

        Raises ArtifactMismatchError for another graph, and ModelError if the model has another
        width or is not built as `attach_adapters` needs.
        """
        self.check_graph(graph.manifest)
        device = model.device
        users, items = input_vectors(self.config.model, graph.users, graph.items)
        embedding = attach_adapters(model, self.adapters, user_vectors=users, item_vectors=items)
        model.eval().to(device)
        if model.generation_config is not None:
            model.generation_config.update(
                repetition_penalty=1.0, encoder_repetition_penalty=1.0, no_repeat_ngram_size=0
            )
        return PromptBuilder(tokenizer, self.config.prompt, embedding.vocabulary)

    def check_base_model(self, fingerprint: str, source: str) -> None:
        """Raise ArtifactMismatchError unless the adapter was trained for this model."""
        if fingerprint != self.config.base_model_fingerprint:
            raise ArtifactMismatchError(
                f"llm.model {source!r} has fingerprint {fingerprint}, "
                f"but the adapter was trained for {self.config.base_model!r} "
                f"({self.config.base_model_fingerprint}); "
                "give that model, or train an adapter for this one"
            )

    def check_graph(self, graph: Manifest) -> None:
        """Raise ArtifactMismatchError unless the adapter was trained on this graph.

        Or on one that it started from, onto whose vectors its own were turned.
        """
        if self.config.graph_fingerprint not in ancestry(graph, START_FROM):
            raise ArtifactMismatchError(
                f"the graph has fingerprint {graph.fingerprint}, "
                f"but the adapter was trained on graph {self.config.graph_fingerprint}; "
                "give that graph or one that started from it, or train an adapter on this one"
            )


def write_adapter(
    location: Location,
    state: Mapping[str, Tensor],
    config: AdapterConfig,
    *,
    run_config: dict[str, Any],
    inputs: dict[str, str],
    metrics: dict[str, Any],
    extra_files: dict[str, bytes],
) -> Manifest:
    """Write an adapter's artifact to `location` and return its manifest, which is written last.

    `state` is what `Adapters.state_dict` returns. `extra_files`, such as the loss history, are
    written beside it and are not part of the fingerprint.
    """
    for name, data in extra_files.items():
        (location / name).write_bytes(data)
    return write_manifest(
        location,
        "adapter",
        config=run_config,
        inputs=inputs,
        files=write_contents(location, _content(state, config)),
        metrics=metrics,
    )


def read_adapter(location: Location) -> TrainedAdapter:
    """The adapter artifact at `location`.

    Raises ArtifactNotFoundError if there is none, and ArtifactMismatchError if its files do not
    fit the manifest or each other, or a newer version of xrec wrote them.
    """
    manifest = read_manifest(location, "adapter")
    weights, data = (
        read_content(location, manifest, name, remedy="train the adapter again")
        for name in (WEIGHTS, CONFIG)
    )
    config = _parse_config(data, str(location / CONFIG))
    return TrainedAdapter(_parse_weights(weights, config, location), config, manifest)


def _parse_config(data: bytes, name: str) -> AdapterConfig:
    try:
        return AdapterConfig.model_validate_json(data)
    except ValidationError as error:
        raise ArtifactMismatchError(
            f"{name}: xrec {__version__} cannot read this adapter config. If it has unknown keys, "
            "a newer xrec may have written it: upgrade xrec, or make the adapter again"
            f"\n{error}"
        ) from error


def _parse_weights(data: bytes, config: AdapterConfig, location: Location) -> Adapters:
    try:
        adapters = build_adapters(
            config.model, embedding_dim=config.embedding_dim, hidden_size=config.hidden_size
        )
        adapters.load_state_dict(safetensors.torch.load(data))
    except (safetensors.SafetensorError, RuntimeError, ValueError) as error:
        raise ArtifactMismatchError(
            f"{location}: {CONFIG} and {WEIGHTS} do not fit this version of xrec or each other: "
            f"{error}"
        ) from error
    adapters.user.eval()
    adapters.item.eval()
    return adapters


def _content(state: Mapping[str, Tensor], config: AdapterConfig) -> dict[str, bytes]:
    text = config.model_dump_json(indent=2) + "\n"
    return {CONFIG: text.encode("utf-8"), WEIGHTS: safetensors.torch.save(dict(state))}
