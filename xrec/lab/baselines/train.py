"""The recipe of a peer: dataset in, trained peer out, by Ray Train.

    train_peer     driver: checks the data, runs the workers, writes the best epoch
    train_worker   one worker: the data, the model, `PeerTrainer` from epoch to epoch

A run that was stopped in any way goes on from its last finished epoch when it is started again.
"""

import logging
from collections.abc import Mapping
from typing import Any

import safetensors.torch

from xrec.aspects import read_aspects_manifest
from xrec.config.baselines import PeerConfig
from xrec.data.dataset import read_dataset
from xrec.lab.baselines.artifact import sizes_of, write_peer
from xrec.lab.baselines.build import build_peer
from xrec.lab.baselines.data import PeerData, build_peer_data
from xrec.lab.baselines.language_model import language_model_fingerprint
from xrec.lab.baselines.progress import PeerProgress
from xrec.lab.baselines.trainer import BEST, PeerTrainer, Workers
from xrec.llm.source import anywhere
from xrec.storage import Manifest, finished, location_of, manifest_of, run_fingerprint
from xrec.train.checkpoint import Tensors, claim, read_progress
from xrec.train.lease import CHECKPOINTS
from xrec.train.metrics import TrainingMetrics
from xrec.train.ray_driver import fit
from xrec.train.ray_worker import last_checkpoint, rank, report, worker_device, world_size

logger = logging.getLogger("xrec")


def peer_identity(
    config: PeerConfig, *, base_model: str | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings that the peer's content depends on, and the fingerprints of its inputs.

    `base_model` is that of PEPLER's language model, if the caller knows it.
    Raises ArtifactNotFoundError without a dataset, or without aspects for peter_plus, and
    ArtifactMismatchError if they are of another dataset.
    """
    names = {"kind", "seed", "max_words", "max_vocabulary", "training"}
    settings = config.model_dump(mode="json", include=names)
    dataset = manifest_of(config, "dataset")
    inputs = {"dataset": dataset.fingerprint}
    if config.kind == "peter_plus":
        aspects = read_aspects_manifest(location_of(config, "aspects"), dataset)
        inputs["aspects"] = aspects.fingerprint
    if config.kind == "pepler":
        inputs["base_model"] = (
            language_model_fingerprint(config) if base_model is None else base_model
        )
    return {**settings, "model": config.recipe.model_dump(mode="json")}, inputs


def train_peer(config: PeerConfig) -> Manifest:
    """Train and write the peer, and return its manifest.

    If this run is already finished, its manifest is returned at once; otherwise Ray must be
    initialised. Raises ArtifactMismatchError if another run's peer or checkpoints are at the
    output, DataError without training or validation explanations, TrainingError.
    """
    output = location_of(config, "peer")
    settings, inputs = peer_identity(config)
    done = finished(output, "peer", settings, inputs)
    if done is not None:
        logger.info("%s: already there", output)
        return done
    data = build_peer_data(config, read_dataset(location_of(config, "dataset")))
    claim(output / CHECKPOINTS, "peer", settings, inputs)
    progress, best = _train(config, run_fingerprint("peer", settings, inputs))
    manifest = write_peer(
        output,
        config,
        data,
        best,
        progress.history,
        settings=settings,
        inputs=inputs,
        metrics=_metrics(data, progress, best),
    )
    (output / CHECKPOINTS).delete()
    return manifest


def _metrics(data: PeerData, progress: PeerProgress, trained: Tensors) -> dict[str, Any]:
    best = progress.best(progress.history[-1]["phase"])
    return {
        "num_trained_parameters": sum(each.numel() for each in trained.values()),
        "training_seconds": sum(float(row["seconds"]) for row in progress.history),
        "best_epoch": best["epoch"],
        "num_epochs": len(progress.history),
        "validation_loss": best["validation_loss"],
        "num_train_pairs": len(data.train),
        "num_words": len(data.codec),
        "max_words": data.max_words,
    }


def _train(config: PeerConfig, run: str) -> tuple[PeerProgress, Tensors]:
    """Run the workers; return how the run went, and the parameters of the best epoch."""
    exported = TrainingMetrics("peer")

    def on_report(row: Mapping[str, Any]) -> None:
        exported.record(row)
        logger.info(
            "epoch %d: training loss %.3f, validation loss %.3f nats a token (%.1f s)",
            *(row[key] for key in ("epoch", "train_loss", "validation_loss", "seconds")),
        )

    with exported.running():
        outcome = fit(
            train_worker,
            {"config": for_workers(config), "run": run},
            scaling=config.scaling,
            storage=location_of(config, "peer") / CHECKPOINTS,
            name="peer",
            on_report=on_report,
        )
    progress = read_progress(PeerProgress, outcome.read_checkpoint_file, run)
    return progress, safetensors.torch.load(outcome.read_checkpoint_file(BEST))


def for_workers(config: PeerConfig) -> PeerConfig:
    """The config with URIs and paths that a worker can open."""
    update: dict[str, Any] = {
        name: location_of(config, name).shared_uri for name in ("dataset", "aspects")
    }
    if config.llm is not None:
        update["llm"] = anywhere(config.llm)
    return config.model_copy(update=update)


def train_worker(loop_config: dict[str, Any]) -> None:
    """Train in one worker, from the argument only.

    `loop_config` has "config", a PeerConfig with URIs that a worker can open, and "run", the
    fingerprint of the run.
    """
    config: PeerConfig = loop_config["config"]
    data = build_peer_data(config, read_dataset(location_of(config, "dataset")))
    trainer = PeerTrainer(
        build_peer(config, sizes_of(data), worker_device()),
        data,
        config.recipe,
        config.training,
        seed=config.seed,
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
