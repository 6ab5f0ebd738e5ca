"""The adapter artifact, a folder as the model hubs expect it: `adapter.safetensors`, `adapter_config.json`, a model card, our manifest.

Never the language model, never the graph. The config and the weights are the content and are enough to use it; the card
and the training log are beside it: the fingerprint does not depend on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from xrec.adapter.card import model_card, with_evaluation
from xrec.adapter.config import AdapterConfig, config_bytes, parse_adapter_config
from xrec.adapter.model import Adapters, attach_adapters, build_adapters
from xrec.adapter.source import open_adapter
from xrec.adapter.vectors import input_vectors
from xrec.config.llm import Dtype
from xrec.config.shared import Device, StorageConfig
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, StorageNotFoundError
from xrec.graph.artifact import GraphEmbeddings
from xrec.llm.model import load_model, load_tokenizer, resolve_device, resolve_dtype
from xrec.llm.prompt import PromptBuilder
from xrec.llm.source import model_fingerprint, resolve_model
from xrec.storage import (
    MANIFEST,
    Location,
    Manifest,
    content_hash,
    fingerprint_of,
    open_location,
    read_manifest,
    write_manifest,
)

__all__ = [
    "CARD",
    "CONFIG",
    "WEIGHTS",
    "AdapterConfig",
    "TrainedAdapter",
    "read_adapter",
    "write_adapter",
]

WEIGHTS = "adapter.safetensors"
CONFIG = "adapter_config.json"
CARD = "README.md"


@dataclass(frozen=True)
class TrainedAdapter:
    """An adapter in memory. `manifest` is None for a folder without ours; `card` is its README.md, None without one."""

    adapters: Adapters
    config: AdapterConfig
    manifest: Manifest | None = None
    card: str | None = None

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, storage: StorageConfig | None = None
    ) -> "TrainedAdapter":
        """The adapter of a folder (local or s3://) or of a hub id; our manifest is checked if it is there, and not needed.

        Raises ArtifactNotFoundError, or ArtifactMismatchError for files that are broken, a newer version's, or do not belong together.
        """
        location = open_adapter(str(source), storage)
        return read_adapter(location) if (location / MANIFEST).is_file() else _read(location, None)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        evaluation: Manifest | None = None,
        storage: StorageConfig | None = None,
    ) -> None:
        """Write the adapter to `folder` (local or s3://), ready to be uploaded to a hub.

        The card is the one it came with, with the metrics of `evaluation` (of `xrec evaluate`) if given. The manifest goes along
        as long as the content is still the one it speaks of. Raises ArtifactMismatchError for another adapter's evaluation.
        """
        if evaluation is not None and evaluation.inputs["adapter"] != self.fingerprint:
            raise ArtifactMismatchError(
                f"the evaluation is of adapter {evaluation.inputs['adapter']}, this one is {self.fingerprint}; evaluate this one, or save that one"
            )
        card = self.card or model_card(self.config)
        files = _content(self.adapters.state_dict(), self.config)
        files[CARD] = (with_evaluation(card, evaluation) if evaluation else card).encode("utf-8")
        if self.manifest is not None and self.manifest.files == _hashes(files):
            files[MANIFEST] = self.manifest.to_bytes()
        location = open_location(str(folder), storage)
        for name, data in files.items():
            (location / name).write_bytes(data)

    @property
    def fingerprint(self) -> str:
        """Identifies the adapter: the manifest's fingerprint, or without one that of config and weights."""
        return (
            self.manifest.fingerprint
            if self.manifest
            else fingerprint_of(_hashes(_content(self.adapters.state_dict(), self.config)))
        )

    def load_base_model(
        self,
        source: str | None = None,
        *,
        dtype: Dtype = "auto",
        device: Device = "auto",
        cache_dir: str | None = None,
        storage: StorageConfig | None = None,
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The frozen model that the adapter was trained for, with its tokenizer; `source` as `llm.model`, None: the name in the config.

        Raises ModelError, ArtifactMismatchError if `source` is another model.
        """
        source = source or self.config.base_model
        folder = resolve_model(source, cache_dir, storage)
        self.check_base_model(model_fingerprint(folder), source)
        torch_device = resolve_device(device)
        return load_model(
            folder, dtype=resolve_dtype(dtype, torch_device), device=torch_device
        ), load_tokenizer(folder)

    def attach(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, graph: GraphEmbeddings
    ) -> PromptBuilder:
        """Give `model` the users and items of `graph` as tokens, in place; returns the builder of the prompts that hold them.

        Its generation settings lose their penalties of repeated prompt tokens: a user or item has no logit to be penalized.
        Raises ArtifactMismatchError for another graph or a model of another width, ModelError as `attach_adapters`.
        """
        self.check_graph(graph.manifest.fingerprint)
        if model.config.hidden_size != self.config.hidden_size:
            raise ArtifactMismatchError(
                f"{type(model).__name__} has hidden_size {model.config.hidden_size}, the adapter was trained for {self.config.base_model!r} with "
                f"{self.config.hidden_size}; give that model (load_base_model)"
            )
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
        """Raise ArtifactMismatchError unless this is the model that the adapter was trained for."""
        if fingerprint != self.config.base_model_fingerprint:
            raise ArtifactMismatchError(
                f"llm.model {source!r} has fingerprint {fingerprint}, but the adapter was trained for {self.config.base_model!r} "
                f"({self.config.base_model_fingerprint}); give that model, or train an adapter for this one"
            )

    def check_graph(self, fingerprint: str) -> None:
        """Raise ArtifactMismatchError unless this is the graph that the adapter was trained on."""
        if fingerprint != self.config.graph_fingerprint:
            raise ArtifactMismatchError(
                f"the graph has fingerprint {fingerprint}, but the adapter was trained on graph {self.config.graph_fingerprint}; "
                "give that graph, or train an adapter on this one"
            )


def write_adapter(
    location: Location,
    state: dict[str, Tensor],
    config: AdapterConfig,
    *,
    run_config: dict[str, Any],
    inputs: dict[str, str],
    metrics: dict[str, Any],
    extra_files: dict[str, bytes],
    card: str | None = None,
) -> Manifest:
    """Write the artifact of an adapter's tensors (`Adapters.state_dict`); `card` (`model_card`) and `extra_files` (the loss history) go beside it."""
    content = _content(state, config)
    for name, data in {
        **content,
        CARD: (card or model_card(config)).encode("utf-8"),
        **extra_files,
    }.items():
        (location / name).write_bytes(data)
    return write_manifest(
        location,
        "adapter",
        config=run_config,
        inputs=inputs,
        files=_hashes(content),
        metrics=metrics,
    )


def read_adapter(location: Location) -> TrainedAdapter:
    """The adapter artifact at `location`.

    Raises ArtifactNotFoundError, or ArtifactMismatchError if its files do not fit the manifest or each other.
    """
    return _read(location, read_manifest(location, "adapter"))


def _read(location: Location, manifest: Manifest | None) -> TrainedAdapter:
    files = {name: _read_file(location, name) for name in (CONFIG, WEIGHTS)}
    for name, data in files.items():
        if manifest is not None and content_hash(data) != manifest.files[name]:
            raise ArtifactMismatchError(
                f"{location / name}: its content is not what the manifest says; train the adapter again"
            )
    config = parse_adapter_config(files[CONFIG], str(location / CONFIG))
    card = (location / CARD).read_text() if (location / CARD).is_file() else None
    return TrainedAdapter(_parse_weights(files[WEIGHTS], config, location), config, manifest, card)


def _read_file(location: Location, name: str) -> bytes:
    try:
        return (location / name).read_bytes()
    except StorageNotFoundError as error:
        raise ArtifactNotFoundError(
            f"{location}: no {name} there; an adapter is a folder with {CONFIG} and {WEIGHTS}: check the path"
        ) from error


def _parse_weights(data: bytes, config: AdapterConfig, location: Location) -> Adapters:
    try:
        adapters = build_adapters(
            config.model, embedding_dim=config.embedding_dim, hidden_size=config.hidden_size
        )
        adapters.load_state_dict(safetensors.torch.load(data))
    except (safetensors.SafetensorError, RuntimeError, ValueError) as error:
        raise ArtifactMismatchError(
            f"{location}: {CONFIG} and {WEIGHTS} do not fit this version of xrec or each other: {error}"
        ) from error
    adapters.user.eval()
    adapters.item.eval()
    return adapters


def _content(state: Mapping[str, Tensor], config: AdapterConfig) -> dict[str, bytes]:
    return {CONFIG: config_bytes(config), WEIGHTS: safetensors.torch.save(dict(state))}


def _hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: content_hash(files[name]) for name in (CONFIG, WEIGHTS)}
