"""`adapter_config.json`: what is needed to attach an adapter to its model and graph.

Its fingerprints let xrec refuse a model or a graph that the adapter was not trained for.
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


def config_bytes(config: AdapterConfig) -> bytes:
    """The content of the file; equal configs give equal bytes."""
    return (config.model_dump_json(indent=2) + "\n").encode("utf-8")


def parse_adapter_config(data: bytes, name: str) -> AdapterConfig:
    """The config that `data`, the content of the file `name`, holds.

    Raises ArtifactMismatchError, with the file's name and each key that is wrong.
    """
    try:
        return AdapterConfig.model_validate_json(data)
    except ValidationError as error:
        raise ArtifactMismatchError(
            f"{name}: xrec {__version__} cannot read this adapter config. If it has unknown keys, "
            "a newer xrec may have written it: upgrade xrec, or make the adapter again"
            f"\n{error}",
            code="broken_file",
            key=name,
        ) from error


def read_config(location: Location, manifest: Manifest) -> AdapterConfig:
    """That of the adapter whose manifest is given, without a look at its weights.

    Raises ArtifactMismatchError if it is not the one that the manifest names, or cannot be read.
    """
    data = read_content(location, manifest, CONFIG, remedy="train the adapter again")
    return parse_adapter_config(data, str(location / CONFIG))


def training_identity(
    config: TrainAdapterConfig, *, download: bool = True
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the options of a training that identify it, and the fingerprints of its inputs.

    Without `download`, that of the language model is "" if the model is not on this machine.
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
    """Fingerprints of what a text's model consists of; `adapter` is that of the adapter."""
    return {
        "base_model": config.base_model_fingerprint,
        "adapter": adapter,
        "graph": graph.fingerprint,
    }
