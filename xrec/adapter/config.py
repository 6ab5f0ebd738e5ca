"""`adapter_config.json`: what is needed to attach an adapter to its model and graph.

By its fingerprints xrec refuses other models and graphs.
"""

from typing import Any

from pydantic import Field, ValidationError

from xrec.aspects import check_prompt
from xrec.config import AdapterModelConfig, Config, PromptConfig, TrainAdapterConfig, identity_of
from xrec.errors import ArtifactMismatchError
from xrec.llm.source import known_fingerprint
from xrec.storage import Location, Manifest, manifest_of, read_content
from xrec.version import __version__

CONFIG, WEIGHTS = "adapter_config.json", "adapter.safetensors"


class AdapterConfig(Config):
    """The content of `adapter_config.json`.

    `base_model` is a name for readers (`xrec.llm.source.public_name`), at the hub's
    `base_model_revision`; only the fingerprints identify a model or a graph.
    """

    embedding_dim: int
    hidden_size: int
    model: AdapterModelConfig
    prompt: PromptConfig
    base_model: str
    base_model_revision: str | None = Field(None, exclude_if=lambda value: value is None)
    base_model_fingerprint: str
    graph_fingerprint: str


def config_bytes(config: AdapterConfig) -> bytes:
    """Return the content of the file; equal configs give equal bytes."""
    return (config.model_dump_json(indent=2) + "\n").encode("utf-8")


def parse_adapter_config(data: bytes, name: str) -> AdapterConfig:
    """Parse the content of file `name`; raises ArtifactMismatchError, naming each invalid key."""
    try:
        return AdapterConfig.model_validate_json(data)
    except ValidationError as error:
        raise ArtifactMismatchError(
            f"{name}: xrec {__version__} cannot read this adapter config. If it has unknown keys, "
            f"a newer xrec may have written it: upgrade xrec, or retrain the adapter\n{error}",
            code="broken_file",
            key=name,
        ) from error


def read_config(location: Location, manifest: Manifest) -> AdapterConfig:
    """Return the config of the adapter with this manifest, without reading the weights.

    Raises ArtifactMismatchError if it differs from the manifest or cannot be read.
    """
    data = read_content(location, manifest, CONFIG, remedy="retrain the adapter")
    return parse_adapter_config(data, str(location / CONFIG))


def training_identity(
    config: TrainAdapterConfig, *, download: bool = True
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings that identify a training run, and the fingerprints of its inputs.

    Without `download`, a language model that is not on this machine has the fingerprint "".
    """
    dataset = manifest_of(config, "dataset")
    inputs = {
        "dataset": dataset.fingerprint,
        "graph": manifest_of(config, "graph").fingerprint,
        "base_model": known_fingerprint(config.llm, config.storage, download=download) or "",
    }
    check_prompt(config.prompt, dataset)
    return identity_of(config), inputs


def model_inputs(config: AdapterConfig, adapter: str, graph: Manifest) -> dict[str, str]:
    """Return the fingerprints of a text's model; `adapter` is that of the adapter."""
    return {
        "base_model": config.base_model_fingerprint,
        "adapter": adapter,
        "graph": graph.fingerprint,
    }
