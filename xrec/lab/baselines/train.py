"""The recipe of a baseline: dataset in, trained baseline out, by Ray Train.

    train_baseline   driver: checks the data, runs the workers, writes the best epoch
    train_worker     one worker: the data, the model, `BaselineTrainer` from epoch to epoch

A run that was stopped in any way goes on from its last finished epoch when it is started again.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import safetensors.torch

from xrec.aspects.artifact import read_aspects_manifest
from xrec.data.dataset import read_dataset
from xrec.lab.baselines.artifact import build_model, write_baseline
from xrec.lab.baselines.baseline import Baseline
from xrec.lab.baselines.data import BaselineData, build_data
from xrec.lab.baselines.trainer import BEST, BaselineProgress, BaselineTrainer, Workers
from xrec.llm.source import model_fingerprint
from xrec.storage import Manifest, claim, finished, read_manifest, run_fingerprint
from xrec.train.checkpoint import Tensors, read_progress
from xrec.train.lease import CHECKPOINTS
from xrec.train.ray_driver import fit
from xrec.train.ray_worker import last_checkpoint, rank, report, worker_device, world_size

logger = logging.getLogger("xrec")


def baseline_identity(baseline: Baseline) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings that the content depends on, and the fingerprints of its inputs.

    Raises ArtifactNotFoundError without a dataset, or without aspects if it reads some, and
    ArtifactMismatchError if they are of another dataset.
    """
    settings: dict[str, Any] = {
        "kind": baseline.kind,
        "seed": baseline.seed,
        "max_pairs": baseline.max_pairs,
        "recipe": asdict(baseline.recipe),
    }
    dataset = read_manifest(baseline.open(baseline.dataset), "dataset")
    inputs = {"dataset": dataset.fingerprint}
    if baseline.kind == "lora":
        settings["prompt"] = baseline.prompt.model_dump(mode="json")
        settings["dtype"] = baseline.language_model.dtype
        inputs["base_model"] = model_fingerprint(baseline.llm_folder())
    if baseline.num_aspect_words or (baseline.kind == "lora" and baseline.prompt.aspects):
        aspects = read_aspects_manifest(baseline.open(baseline.aspects), dataset)
        inputs["aspects"] = aspects.fingerprint
    return settings, inputs


def train_baseline(baseline: Baseline) -> Manifest:
    """Train and write the baseline, and return its manifest.

    If this run is already finished, its manifest is returned at once; otherwise Ray must be
    initialised. Raises ArtifactMismatchError if another run's baseline or checkpoints are at the
    output, DataError without training or validation explanations, TrainingError.
    """
    output = baseline.model
    settings, inputs = baseline_identity(baseline)
    done = finished(output, "baseline", settings, inputs)
    if done is not None:
        logger.info("%s: already there", output)
        return done
    data = build_data(baseline, read_dataset(baseline.open(baseline.dataset)))
    claim(output / CHECKPOINTS, "baseline", settings, inputs)
    progress, best = _train(baseline, run_fingerprint("baseline", settings, inputs))
    manifest = write_baseline(
        baseline,
        data,
        best,
        progress.history,
        settings=settings,
        inputs=inputs,
        metrics=_metrics(data, progress, best),
    )
    (output / CHECKPOINTS).delete()
    return manifest


def _metrics(data: BaselineData, progress: BaselineProgress, trained: Tensors) -> dict[str, Any]:
    best = progress.best
    return {
        "num_trained_parameters": sum(each.numel() for each in trained.values()),
        "training_seconds": sum(float(row["seconds"]) for row in progress.history),
        "best_epoch": best["epoch"],
        "num_epochs": len(progress.history),
        "validation_loss": best["validation_loss"],
        "num_words": data.sizes["num_tokens"],
        "max_words": data.max_words,
    }


def _train(baseline: Baseline, run: str) -> tuple[BaselineProgress, Tensors]:
    """Run the workers; return how the run went, and the parameters of the best epoch."""
    outcome = fit(
        train_worker,
        {"baseline": baseline, "run": run},
        scaling=baseline.scaling,
        storage=baseline.model / CHECKPOINTS,
        name="baseline",
        on_report=_log_epoch,
    )
    progress = read_progress(BaselineProgress, outcome.read_checkpoint_file, run)
    return progress, safetensors.torch.load(outcome.read_checkpoint_file(BEST))


def _log_epoch(row: Mapping[str, Any]) -> None:
    logger.info(
        "epoch %d: training loss %.3f, validation loss %.3f nats a token (%.1f s)",
        *(row[key] for key in ("epoch", "train_loss", "validation_loss", "seconds")),
    )


def train_worker(loop_config: dict[str, Any]) -> None:
    """Train in one worker, from the argument only.

    `loop_config` has "baseline", a Baseline, and "run", the fingerprint of the run.
    """
    baseline: Baseline = loop_config["baseline"]
    data = build_data(baseline, read_dataset(baseline.open(baseline.dataset)))
    trainer = BaselineTrainer(
        build_model(baseline, data.sizes, worker_device()),
        data,
        baseline.recipe,
        seed=baseline.seed,
        run=loop_config["run"],
        device=worker_device(),
        workers=Workers(rank(), world_size()),
    )
    with last_checkpoint() as read:
        if read is not None:
            trainer.restore(read)
    while not trainer.has_finished:
        row = trainer.run_epoch()
        report(row, trainer.checkpoint() if rank() == 0 else None)
