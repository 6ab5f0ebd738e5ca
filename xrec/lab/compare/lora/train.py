"""The driver of the low-rank weights' training: examples in, a folder of peft out."""

import json
import logging
from typing import Any

import safetensors.torch

from xrec.aspects import aspects_of
from xrec.config.comparison import ComparisonConfig
from xrec.config.lora import LoraConfig
from xrec.errors import ConfigError
from xrec.lab.compare.lora.weights import WEIGHTS, lora_files
from xrec.lab.compare.lora.worker import PROGRESS, STATE, lora_worker
from xrec.llm.source import anywhere, model_fingerprint, resolve_model
from xrec.storage import (
    Location,
    Manifest,
    finished,
    location_of,
    manifest_of,
    write_contents,
    write_manifest,
)
from xrec.train.checkpoint import claim, tensors_below
from xrec.train.lease import CHECKPOINTS
from xrec.train.ray_driver import fit

logger = logging.getLogger("xrec")


def train_lora(config: ComparisonConfig, lora: LoraConfig, output: Location) -> Manifest:
    """Train the low-rank weights and write them to `output`; returns the manifest.

    If this run is already finished, its manifest is returned at once; one that was stopped goes on
    from its last checkpoint. Raises ArtifactMismatchError if another run's output is there,
    ConfigError, DataError, ModelError, TrainingError.
    """
    _check_batch_sizes(config, lora)
    settings = {
        "lora": lora.model_dump(mode="json", exclude={"steps_per_checkpoint"}),
        "prompt": config.prompt.model_dump(mode="json"),
        "dtype": config.language_model.dtype,
    }
    inputs = _inputs(config)
    if (done := finished(output, "lora", settings, inputs)) is not None:
        return done
    claim(output / CHECKPOINTS, "lora", settings, inputs)
    outcome = fit(
        lora_worker,
        {"config": _for_workers(config), "lora": lora},
        scaling=config.scaling,
        storage=output / CHECKPOINTS,
        name="lora",
    )
    progress = json.loads(outcome.read_checkpoint_file(PROGRESS))
    state = safetensors.torch.load(outcome.read_checkpoint_file(STATE))
    weights = tensors_below(state, "weights")
    files = lora_files(lora, weights)
    hashes = write_contents(output, files)
    manifest = write_manifest(
        output,
        "lora",
        config=settings,
        inputs=inputs,
        files={WEIGHTS: hashes[WEIGHTS]},
        metrics={
            "num_trained_parameters": sum(weight.numel() for weight in weights.values()),
            "training_seconds": progress["seconds"],
            "loss": progress["loss"],
            "num_steps": progress["step"],
        },
    )
    (output / CHECKPOINTS).delete()
    return manifest


def _check_batch_sizes(config: ComparisonConfig, lora: LoraConfig) -> None:
    part = lora.micro_batch_size * config.scaling.num_workers
    if lora.global_batch_size % part:
        raise ConfigError(
            f"lora.global_batch_size = {lora.global_batch_size} is no multiple of "
            "lora.micro_batch_size * scaling.num_workers = "
            f"{lora.micro_batch_size} * {config.scaling.num_workers}; change one of them"
        )


def _inputs(config: ComparisonConfig) -> dict[str, str]:
    llm, dataset = config.language_model, manifest_of(config, "dataset")
    folder = resolve_model(llm.model, llm.cache_dir, config.storage)
    aspects = aspects_of(config.prompt, config.artifact("aspects"), dataset, config.storage)
    return {
        "dataset": dataset.fingerprint,
        "base_model": model_fingerprint(folder),
        **({} if aspects is None else {"aspects": aspects.fingerprint}),
    }


def _for_workers(config: ComparisonConfig) -> ComparisonConfig:
    """The config with URIs and paths that a worker can open."""
    names: tuple[str, ...] = ("dataset", "graph", "aspects", config.makes)
    update: dict[str, Any] = {name: location_of(config, name).shared_uri for name in names}
    return config.model_copy(update={**update, "llm": anywhere(config.language_model)})
