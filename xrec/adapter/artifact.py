"""The adapter artifact: a folder in the layout of model hubs.

It has `adapter.safetensors`, `adapter_config.json`, a model card (README.md), our manifest, and a
training log, but neither the language model nor the graph. The fingerprint covers only the config
and the weights, which are enough to use the adapter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from xrec.adapter.card import model_card
from xrec.adapter.config import (
    CONFIG,
    WEIGHTS,
    AdapterConfig,
    config_bytes,
    parse_adapter_config,
)
from xrec.adapter.model import Adapters, attach_adapters, build_adapters, input_vectors
from xrec.config import Device, Dtype, LLMConfig, StorageConfig
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, StorageNotFoundError
from xrec.graph.artifact import GraphEmbeddings
from xrec.graph.identity import START_FROM
from xrec.llm.model import load_model, load_tokenizer, resolve_device, resolve_dtype
from xrec.llm.prompt import PromptBuilder
from xrec.llm.source import is_hub_id, model_fingerprint, resolve_model
from xrec.storage import (
    MANIFEST,
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

CARD = "README.md"
_HUB_FILES = ["*.json", "*.safetensors", "README.md"]


@dataclass(frozen=True)
class TrainedAdapter:
    """An adapter in memory; `manifest` and `card` (README.md) are None if the folder lacks them."""

    adapters: Adapters
    config: AdapterConfig
    manifest: Manifest | None = None
    card: str | None = None

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, storage: StorageConfig | None = None
    ) -> "TrainedAdapter":
        """Return the adapter in a folder (local or s3://) or of a hub ID.

        Files are checked against the manifest, if there is one. Raises ArtifactNotFoundError, or
        ArtifactMismatchError if the files are broken, inconsistent, or from a newer xrec.
        """
        folder = _from_hub(str(source)) if is_hub_id(str(source)) else str(source)
        location = open_location(folder, storage)
        return read_adapter(location) if (location / MANIFEST).is_file() else _read(location, None)

    def save_pretrained(self, folder: str | Path, *, storage: StorageConfig | None = None) -> None:
        """Write the adapter to `folder` (local or s3://), ready for upload to a hub.

        The manifest is written only if it still describes config and weights.
        """
        location = open_location(str(folder), storage)
        files = write_contents(location, _content(self.adapters.state_dict(), self.config))
        write_contents(location, {CARD: self.card or model_card(self.config)})
        if self.manifest is not None and self.manifest.files == files:
            (location / MANIFEST).write_bytes(self.manifest.to_bytes())

    @property
    def fingerprint(self) -> str:
        """The manifest's fingerprint, or that of config and weights."""
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
        """Return the frozen model that the adapter was trained for, and its tokenizer.

        `source` and `revision` are like `llm.model` and `llm.revision`, by default those in the
        adapter's config. Raises ModelError if the model cannot be loaded, and ArtifactMismatchError
        if the adapter was trained for another one.
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
        """Add the users and items of `graph` to `model` as tokens, and return a prompt builder.

        The model's generation settings lose their penalties for repeated prompt tokens, because
        users and items have no logit to penalize. Raises ArtifactMismatchError for another graph,
        and ModelError if the model does not fit (`attach_adapters`).
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
                "use that model, or train an adapter for this one",
                code="another_model",
                key="llm.model",
                saw=fingerprint,
            )

    def check_graph(self, graph: Manifest) -> None:
        """Raise ArtifactMismatchError unless the adapter was trained on this graph.

        Graphs that started from it fit too, because their vectors were rotated onto its own.
        """
        if self.config.graph_fingerprint not in ancestry(graph, START_FROM):
            raise ArtifactMismatchError(
                f"the graph has fingerprint {graph.fingerprint}, "
                f"but the adapter was trained on graph {self.config.graph_fingerprint}; "
                "use that graph or one that started from it, or train an adapter on this one",
                code="another_graph",
                key="graph",
                saw=graph.fingerprint,
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
    """Write an adapter's artifact to `location`, the manifest last, and return the manifest.

    `state` is from `Adapters.state_dict`. `card` is the text of README.md, by default
    `model_card(config)`. `extra_files` are not part of the fingerprint.
    """
    files = write_contents(location, _content(state, config))
    write_contents(location, {CARD: card or model_card(config), **extra_files})
    return write_manifest(
        location, "adapter", config=run_config, inputs=inputs, files=files, metrics=metrics
    )


def read_adapter(location: Location) -> TrainedAdapter:
    """Return the adapter artifact at `location`.

    Raises ArtifactNotFoundError if there is none, and ArtifactMismatchError if its files differ
    from the manifest or do not fit each other.
    """
    return _read(location, read_manifest(location, "adapter"))


def _from_hub(adapter_id: str) -> str:
    try:
        return snapshot_download(adapter_id, allow_patterns=_HUB_FILES)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ArtifactNotFoundError(
            f"adapter {adapter_id!r}: not a local folder, and the hub refused it ({error}); check "
            "the path or ID and the network, and set HF_TOKEN for a private adapter",
            code="adapter_not_given",
            saw=adapter_id,
        ) from error


def _read(location: Location, manifest: Manifest | None) -> TrainedAdapter:
    files = {name: _read_file(location, manifest, name) for name in (CONFIG, WEIGHTS)}
    config = parse_adapter_config(files[CONFIG], str(location / CONFIG))
    card = (location / CARD).read_text() if (location / CARD).is_file() else None
    return TrainedAdapter(_parse_weights(files[WEIGHTS], config, location), config, manifest, card)


def _read_file(location: Location, manifest: Manifest | None, name: str) -> bytes:
    if manifest is not None:
        return read_content(location, manifest, name, remedy="retrain the adapter")
    try:
        return (location / name).read_bytes()
    except StorageNotFoundError as error:
        raise ArtifactNotFoundError(
            f"{location}: no {name}; an adapter is a folder with {CONFIG} and {WEIGHTS}, check the "
            "path",
            code="missing_file",
            key=name,
        ) from error


def _parse_weights(data: bytes, config: AdapterConfig, location: Location) -> Adapters:
    try:
        adapters = build_adapters(
            config.model, embedding_dim=config.embedding_dim, hidden_size=config.hidden_size
        )
        adapters.load_state_dict(safetensors.torch.load(data))
    except (safetensors.SafetensorError, RuntimeError, ValueError) as error:
        raise ArtifactMismatchError(
            f"{location}: {CONFIG} and {WEIGHTS} do not fit each other or this version of xrec: "
            f"{error}",
            code="broken_file",
            key=location.uri,
        ) from error
    adapters.user.eval()
    adapters.item.eval()
    return adapters


def _content(state: Mapping[str, Tensor], config: AdapterConfig) -> dict[str, bytes]:
    return {CONFIG: config_bytes(config), WEIGHTS: safetensors.torch.save(dict(state))}
