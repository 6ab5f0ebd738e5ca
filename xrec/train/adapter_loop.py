"""Adapter training, the driver: dataset, graph and a frozen language model in, adapter artifact out.

Checks that the inputs belong together, runs the workers (xrec.train.adapter_worker_loop) by Ray Train, writes the best epoch.
A run that was interrupted, by whatever, goes on from its last checkpoint when it is started again.
"""

import json
import logging
from pathlib import Path
from typing import Any

from xrec.adapter.artifact import AdapterConfig, write_adapter
from xrec.adapter.card import TRAINED, model_card
from xrec.config.adapter import TrainAdapterConfig
from xrec.errors import ConfigError
from xrec.graph.artifact import check_graph_of_dataset
from xrec.llm.source import model_fingerprint, public_name, resolve_model
from xrec.storage import Manifest, finished, open_location, read_manifest, run_fingerprint
from xrec.train.adapter_checkpoint import read_best, read_progress
from xrec.train.adapter_worker_loop import train_loop
from xrec.train.checkpoint import claim
from xrec.train.ray_loop import fit
from xrec.train.ray_metrics_loop import TrainingMetrics

logger = logging.getLogger("xrec")

_CHECKPOINTS = "checkpoints"


def train_adapter(config: TrainAdapterConfig) -> Manifest:
    """Train and write the adapter artifact; returns the manifest that is there already if this very run is finished.

    Raises ArtifactMismatchError (graph of another dataset, another run's output or checkpoints), ConfigError, DataError, ModelError,
    TrainingError.
    """
    _check_batch_sizes(config)
    output = open_location(config.artifact("adapter"), config.storage)
    dataset = read_manifest(open_location(config.artifact("dataset"), config.storage), "dataset")
    graph = read_manifest(open_location(config.artifact("graph"), config.storage), "graph")
    check_graph_of_dataset(graph, dataset, config.artifact("graph"), config.artifact("dataset"))
    base_model = model_fingerprint(
        resolve_model(config.llm.model, config.llm.cache_dir, config.storage)
    )
    run_config = adapter_run_config(config)
    inputs = {"dataset": dataset.fingerprint, "graph": graph.fingerprint, "base_model": base_model}
    done = finished(output, "adapter", run_config, inputs)
    if done is not None:
        logger.info("%s: already there", output)
        return done
    claim(output / _CHECKPOINTS, "adapter", run_config, inputs)
    run = run_fingerprint("adapter", run_config, inputs)
    exported = TrainingMetrics("train-adapter")

    def on_report(metrics: dict[str, Any]) -> None:
        exported.record(metrics)
        _log_report(metrics)

    with exported.running():
        outcome = fit(
            train_loop,
            {"config": _for_workers(config), "run": run},
            scaling=config.scaling,
            storage=output / _CHECKPOINTS,
            name="train-adapter",
            on_report=on_report,
        )
    progress = read_progress(outcome.read_checkpoint_file, run)
    adapter_config = AdapterConfig(
        embedding_dim=graph.config["model"]["embedding_dim"],
        hidden_size=progress.best["hidden_size"],
        model=config.model,
        prompt=config.prompt,
        base_model=public_name(config.llm.model),
        base_model_fingerprint=base_model,
        graph_fingerprint=graph.fingerprint,
    )
    manifest = write_adapter(
        output,
        read_best(outcome.read_checkpoint_file),
        adapter_config,
        run_config=run_config,
        inputs=inputs,
        metrics=dict(progress.best),
        extra_files={"history.json": json.dumps(progress.history, indent=2).encode()},
        card=model_card(
            adapter_config,
            settings=config.card,
            origin=TRAINED,
            dataset=dataset,
            metrics=progress.best,
        ),
    )
    (output / _CHECKPOINTS).delete()
    return manifest


def _check_batch_sizes(config: TrainAdapterConfig) -> None:
    training, num_workers = config.training, config.scaling.num_workers
    if training.global_batch_size % (training.micro_batch_size * num_workers):
        raise ConfigError(
            f"training.global_batch_size = {training.global_batch_size} is no multiple of training.micro_batch_size * scaling.num_workers = "
            f"{training.micro_batch_size} * {num_workers}; change one of them"
        )
    num_micro_batches = training.global_batch_size // training.micro_batch_size
    uneven = [
        fewer
        for fewer in range(config.scaling.fewest_workers, num_workers)
        if num_micro_batches % fewer
    ]
    if uneven:
        logger.warning(
            "a step has %d micro-batches: on %s workers some passes will be empty, the batch stays what it is",
            num_micro_batches,
            uneven,
        )


def adapter_run_config(config: TrainAdapterConfig) -> dict[str, Any]:
    """The settings that the adapter's content depends on: not the workers, the ZeRO stage, or how often they save."""
    values = config.model_dump(mode="json", include={"model", "prompt"})
    training = config.training.model_dump(
        mode="json", exclude={"steps_per_checkpoint", "gradient_checkpointing", "prefix_cache_gib"}
    )
    clipping = {"gradient_clipping": config.deepspeed.gradient_clipping}
    return {**values, "training": training, "deepspeed": clipping, "dtype": config.llm.dtype}


def _for_workers(config: TrainAdapterConfig) -> TrainAdapterConfig:
    locations = {
        name: open_location(config.artifact(name), config.storage) for name in ("dataset", "graph")
    }
    return config.model_copy(
        update={
            **{name: location.shared_uri for name, location in locations.items()},
            "llm": config.llm.model_copy(update={"model": _absolute_model(config.llm.model)}),
        }
    )


def _absolute_model(source: str) -> str:
    folder = Path(source).expanduser()
    return str(folder.resolve()) if folder.exists() else source


def _log_report(metrics: dict[str, Any]) -> None:
    logger.info(
        "epoch %d, step %d: training loss %.3f, validation loss %.3f nats a token (%.0f s)",
        metrics["epoch"],
        metrics["step"],
        metrics["train_loss"],
        metrics["validation_loss"],
        metrics["seconds"],
    )
