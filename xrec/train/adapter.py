"""The adapter's recipe, on the driver: dataset, graph, and a frozen language model in, adapter out.

`train_adapter` checks that the inputs belong together, trains on Ray Train workers
(xrec.train.adapter_worker), and writes the adapter of the best epoch. Rerunning an interrupted run
resumes it from its last checkpoint.
"""

import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from xrec.adapter.artifact import write_adapter
from xrec.adapter.card import TRAINED, model_card
from xrec.adapter.config import AdapterConfig, training_identity
from xrec.adapter.model import input_vectors
from xrec.config import TrainAdapterConfig
from xrec.data import read_dataset
from xrec.errors import ConfigError
from xrec.graph.artifact import read_graph
from xrec.graph.identity import check_graph_of_dataset
from xrec.llm.model import check_quantization
from xrec.llm.source import public_name
from xrec.storage import CHECKPOINTS, Manifest, location_of, manifest_of, run_fingerprint
from xrec.train.adapter_worker import train_worker
from xrec.train.checkpoint import AdapterProgress, Tensors, read_best_adapter, read_progress
from xrec.train.data import training_vectors
from xrec.train.example_shards import write_examples
from xrec.train.leak import measure_leak
from xrec.train.ray_driver import fit, train_once

logger = logging.getLogger("xrec")


def train_adapter(
    config: TrainAdapterConfig, cluster: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Manifest:
    """Train and write the adapter artifact, unless it is finished; return its manifest.

    cluster: keeps Ray initialized; by default it already is.

    Raises ArtifactMismatchError if the graph is of another dataset, or if another run's output or
    checkpoints exist, and ConfigError, DataError, ModelError, or TrainingError.
    """
    check_batch_sizes(config)
    check_quantization(config.llm.quantization)
    dataset = manifest_of(config, "dataset")
    graph = manifest_of(config, "graph")
    check_graph_of_dataset(graph, dataset, config.artifact("graph"), config.artifact("dataset"))
    output = location_of(config, "adapter")

    def make(run_config: dict[str, Any], inputs: dict[str, str]) -> Manifest:
        leaks = _measured_leaks(config)
        write_examples(config, run_config, inputs)
        progress, best = _train(config, run_fingerprint("adapter", run_config, inputs))
        metrics = {**progress.history[progress.best_epoch - 1], **leaks}
        adapter_config = AdapterConfig(
            embedding_dim=graph.config["model"]["embedding_dim"],
            hidden_size=metrics["hidden_size"],
            model=config.model,
            prompt=config.prompt,
            base_model=public_name(config.llm.model),
            base_model_revision=config.llm.revision,
            base_model_fingerprint=inputs["base_model"],
            graph_fingerprint=graph.fingerprint,
        )
        return write_adapter(
            output,
            best,
            adapter_config,
            run_config=run_config,
            inputs=inputs,
            metrics=metrics,
            extra_files={"history.json": json.dumps(progress.history, indent=2).encode()},
            card=model_card(adapter_config, origin=TRAINED, dataset=dataset, metrics=metrics),
        )

    return train_once(output, "adapter", training_identity(config), make, cluster)


def _measured_leaks(config: TrainAdapterConfig) -> dict[str, Any]:
    """Return and log the results of `measure_leak`, and what training leaves out."""
    dataset = read_dataset(location_of(config, "dataset"))
    graph = read_graph(location_of(config, "graph"))
    leave_out_own = config.training.leave_out == "own"
    vectors = training_vectors(config, graph)
    has_profiles = leave_out_own and dataset.training_profiles is not None
    if leave_out_own and not has_profiles:
        logger.info("profiles are shown as they are, and may contain what a pair's review says")
    if leave_out_own and vectors is None and config.model.vectors == "graph":
        logger.info("vectors have seen the pairs that they explain: the graph has folds=0")
    users, items = input_vectors(config.model, graph.users, graph.items)
    shown = replace(graph, users=users, items=items)
    fits = measure_leak(dataset, shown, vectors, leave_out_own=leave_out_own)
    for name, fit_of_input in fits.items():
        logger.info(
            "%s: fit to its own reference %.3f, on held-out pairs %.3f",
            name,
            fit_of_input.train,
            fit_of_input.held_out,
        )
    leaks = [each.warning(name) for name, each in fits.items() if each.is_leak]
    for leak in leaks:
        logger.warning(leak)
    return {
        "left_out": {"profiles": has_profiles, "vectors": vectors is not None},
        "fits": {
            name: {figure: round(value, 4) for figure, value in vars(each).items()}
            for name, each in fits.items()
        },
        "leaks": leaks,
    }


def check_batch_sizes(config: TrainAdapterConfig) -> None:
    training, num_workers = config.training, config.workers.num_processes
    size = 1 if training.micro_batch_size == "auto" else training.micro_batch_size
    if training.global_batch_size % (size * num_workers):
        raise ConfigError(
            f"training.global_batch_size must be a multiple of training.micro_batch_size * "
            f"workers.num_processes = {size} * {num_workers}, got {training.global_batch_size}; "
            "change one of them",
            code="batch_does_not_divide",
            key="training.global_batch_size",
            saw=training.global_batch_size,
        )


def _train(config: TrainAdapterConfig, run: str) -> tuple[AdapterProgress, Tensors]:
    """Run the workers; return the run's progress and the adapter of its best epoch."""
    checkpoint = fit(
        train_worker,
        {"config": config, "run": run},
        workers=config.workers,
        storage=location_of(config, "adapter") / CHECKPOINTS,
        name="train-adapter",
        on_report=_log_epoch,
    )

    def read(name: str) -> bytes:
        return (checkpoint / name).read_bytes()

    return read_progress(AdapterProgress, read, run), read_best_adapter(read)


def _log_epoch(row: dict[str, Any]) -> None:
    logger.info(
        "epoch %(epoch)d, step %(step)d: training loss %(train_loss).3f, validation loss "
        "%(validation_loss).3f nats per token (%(seconds).0f s, %(pairs_per_second).3g pairs/s)",
        row,
    )
