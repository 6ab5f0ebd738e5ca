"""The adapter artifact: adapter.safetensors, adapter_config.json, manifest. Never the language model, never the graph."""

from dataclasses import dataclass
from typing import Any

import safetensors.torch
from pydantic import ValidationError
from torch import Tensor

from xrec.adapter.model import Adapters, build_adapters
from xrec.config import AdapterModelConfig, Config, PromptConfig
from xrec.errors import ArtifactMismatchError
from xrec.storage import Location, Manifest, content_hash, read_manifest, write_manifest

WEIGHTS = "adapter.safetensors"
CONFIG = "adapter_config.json"


class AdapterConfig(Config):
    """What is needed to attach the adapters again, and to refuse a model or graph that they were not trained for."""

    embedding_dim: int
    hidden_size: int
    model: AdapterModelConfig
    prompt: PromptConfig
    base_model: str
    base_model_fingerprint: str
    graph_fingerprint: str


@dataclass(frozen=True)
class TrainedAdapter:
    """An adapter artifact in memory."""

    adapters: Adapters
    config: AdapterConfig
    manifest: Manifest

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
) -> Manifest:
    """Write the artifact of an adapter's tensors (`Adapters.state_dict`); `extra_files` go beside it (the loss history)."""
    files = {
        WEIGHTS: safetensors.torch.save(state),
        CONFIG: (config.model_dump_json(indent=2) + "\n").encode("utf-8"),
        **extra_files,
    }
    for name, data in files.items():
        (location / name).write_bytes(data)
    hashes = {name: content_hash(data) for name, data in files.items() if name not in extra_files}
    return write_manifest(location, "adapter", config=run_config, inputs=inputs, files=hashes, metrics=metrics)


def read_adapter(location: Location) -> TrainedAdapter:
    """The adapter at `location`; raises ArtifactNotFoundError, or ArtifactMismatchError if its files do not fit the manifest or each other."""
    manifest = read_manifest(location, "adapter")
    files = {name: (location / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    for name, data in files.items():
        if content_hash(data) != manifest.files[name]:
            raise ArtifactMismatchError(f"{location / name}: its content is not what the manifest says; train the adapter again")
    try:
        config = AdapterConfig.model_validate_json(files[CONFIG])
        adapters = build_adapters(config.model, embedding_dim=config.embedding_dim, hidden_size=config.hidden_size)
        adapters.load_state_dict(safetensors.torch.load(files[WEIGHTS]))
    except (ValidationError, RuntimeError, ValueError) as error:
        raise ArtifactMismatchError(f"{location}: {CONFIG} and {WEIGHTS} do not fit this version of xrec: {error}") from error
    adapters.user.eval()
    adapters.item.eval()
    return TrainedAdapter(adapters, config, manifest)
