"""Trains a baseline in a Ray process: dataset in, trained baseline out."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from xrec.config import identity_of
from xrec.data import read_dataset
from xrec.lab.baselines.artifact import build_model, write_baseline
from xrec.lab.baselines.baseline import Baseline
from xrec.lab.baselines.data import BaselineData, build_data
from xrec.lab.baselines.trainer import BaselineTrainer, Row, best_row
from xrec.llm.model import resolve_device
from xrec.llm.source import model_fingerprint
from xrec.processes import gpus_each, map_in_processes
from xrec.storage import Manifest, finished, location_of, manifest_of
from xrec.train.checkpoint import Tensors

logger = logging.getLogger("xrec")

NUM_PHASES = 2
"""The most phases that a model has."""


def baseline_identity(baseline: Baseline) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings that the content depends on, and the fingerprints of its inputs.

    Raises ArtifactNotFoundError if there is no dataset.
    """
    config = baseline.config
    settings: dict[str, Any] = {
        "kind": baseline.kind,
        "seed": baseline.seed,
        "max_pairs": config.training.max_pairs,
        "recipe": asdict(baseline.recipe),
    }
    dataset = manifest_of(config, "dataset")
    inputs = {"dataset": dataset.fingerprint}
    if baseline.kind == "lora":
        settings["prompt"] = identity_of(config.prompt)
    if baseline.kind in ("lora", "pepler"):
        settings["llm"] = identity_of(config.llm)
        inputs["base_model"] = model_fingerprint(baseline.llm_folder())
    return settings, inputs


def train_baseline(baseline: Baseline) -> Manifest:
    """Train and write the baseline, and return its manifest.

    A finished run returns its manifest at once; otherwise Ray must be initialized. Raises
    ArtifactMismatchError if another run's baseline is at the output, DataError if there are no
    training or no validation explanations, TrainingError, and ClusterError.
    """
    output = baseline.model
    settings, inputs = baseline_identity(baseline)
    if (done := finished(output, "baseline", settings, inputs)) is not None:
        return done
    data = build_data(baseline, read_dataset(location_of(baseline.config, "dataset")))
    history, best = _train(baseline)
    return write_baseline(
        baseline,
        data,
        best,
        history,
        settings=settings,
        inputs=inputs,
        metrics=_metrics(data, history, best),
    )


def _metrics(data: BaselineData, history: Sequence[Row], trained: Tensors) -> dict[str, Any]:
    best = best_row(history)
    return {
        "num_trained_parameters": sum(tensor.numel() for tensor in trained.values()),
        "training_seconds": sum(float(row["seconds"]) for row in history),
        "best_epoch": best["epoch"],
        "num_epochs": len(history),
        "validation_loss": best["validation_loss"],
        "num_words": data.sizes["num_tokens"],
        "max_words": data.max_words,
    }


def _train(baseline: Baseline) -> tuple[list[Row], Tensors]:
    """Return the rows of the epochs, and the parameters of the best one."""
    workers, rows = baseline.config.workers, dict[int, Row]()
    best: Tensors = {}
    for index, made in map_in_processes(
        partial(_load_trainer, baseline),
        range(1, NUM_PHASES * baseline.recipe.num_epochs + 1),
        num_processes=1,
        cpus=workers.cpus,
        gpus=gpus_each(workers.device, 1),
    ):
        if made is not None:
            rows[index], best = made[0], made[1] or best
            logger.info(
                "epoch %d: training loss %.3f, validation loss %.3f nats per token (%.1f s)",
                *(made[0][key] for key in ("epoch", "train_loss", "validation_loss", "seconds")),
            )
    return [rows[index] for index in sorted(rows)], best


def _load_trainer(baseline: Baseline) -> Callable[[int], tuple[Row, Tensors] | None]:
    """Load data and model in this process; return a function that trains up to an epoch, from 1.

    It returns the epoch's row, and after the last epoch also the best parameters; None if training
    ended earlier. A process that replaces a dead one repeats the earlier epochs.
    """
    config = baseline.config
    torch.set_num_threads(config.workers.cpus)
    device = resolve_device(config.workers.device)
    data = build_data(baseline, read_dataset(location_of(config, "dataset")))
    model = build_model(baseline, data.sizes, device)
    trainer = BaselineTrainer(model, data, baseline.recipe, seed=baseline.seed, device=device)

    def train(epoch: int) -> tuple[Row, Tensors] | None:
        while len(trainer.history) < epoch and not trainer.has_finished:
            trainer.run_epoch()
        if len(trainer.history) < epoch:
            return None
        return trainer.history[epoch - 1], trainer.best if trainer.has_finished else {}

    return train
