"""Graph pretraining, the driver: the dataset artifact in, LightGCN's vectors as the graph artifact out.

Runs the workers (xrec.train.graph_worker_loop) by Ray Train, logs their epochs, writes the best one. A run that was
interrupted, by whatever, goes on from its last checkpoint when it is started again.
"""

import logging
from typing import Any

from torch import Tensor

from xrec.config.graph import PretrainGraphConfig
from xrec.config.shared import Split
from xrec.data.dataset import Dataset, read_dataset
from xrec.errors import ConfigError
from xrec.graph import check_edges, embeddings_bytes, ranking_report, write_graph
from xrec.graph.artifact import METRICS
from xrec.storage import Location, Manifest, finished, open_location, read_manifest, run_fingerprint
from xrec.train.checkpoint import claim
from xrec.train.graph_checkpoint import Progress, read_best, read_progress
from xrec.train.graph_data import RECALL, SCORE, split_edges
from xrec.train.graph_worker_loop import train_loop_per_worker
from xrec.train.metrics_log import MetricsLog
from xrec.train.ray_loop import fit
from xrec.train.ray_metrics_loop import TrainingMetrics

logger = logging.getLogger("xrec")

_CHECKPOINTS = "checkpoints"
_HELD_OUT: tuple[Split, ...] = ("validation", "test")


def pretrain_graph(config: PretrainGraphConfig) -> Manifest:
    """Train the graph encoder and write the graph artifact; returns its manifest, at once if this run is already done.

    The best epoch by validation NDCG@20 is kept. Ray must be initialised. Raises ArtifactMismatchError if another run's
    graph or checkpoints are at the output, DataError for an empty graph, ids out of range or a split without interactions,
    ConfigError for a graph that cannot be partitioned among the workers, TrainingError.
    """
    done = pretrained_graph(config)
    if done is not None:
        return done
    source, target = _locations(config)
    dataset = read_dataset(source)
    _check(dataset, config)
    inputs = {"dataset": dataset.manifest.fingerprint}
    progress, vectors = _train(config, dataset, run_fingerprint("graph", _settings(config), inputs))
    embeddings = embeddings_bytes(vectors[: dataset.num_users], vectors[dataset.num_users :])
    metrics = _final_metrics(dataset, vectors, progress)
    manifest = write_graph(
        target,
        embeddings,
        progress.history,
        config=_settings(config),
        inputs=inputs,
        metrics=metrics,
    )
    (target / _CHECKPOINTS).delete()
    return manifest


def pretrained_graph(config: PretrainGraphConfig) -> Manifest | None:
    """The manifest, if this run is already done; needs no Ray.

    Raises ArtifactNotFoundError without a dataset, ArtifactMismatchError if another run's graph or checkpoints are at the output.
    """
    source, target = _locations(config)
    inputs = {"dataset": read_manifest(source, "dataset").fingerprint}
    done = finished(target, "graph", _settings(config), inputs)
    if done is not None:
        logger.info("%s: this graph is already trained", target)
        return done
    if not claim(target / _CHECKPOINTS, "graph", _settings(config), inputs):
        (target / METRICS).delete()  # of a run whose checkpoints were deleted
    return None


def _train(config: PretrainGraphConfig, dataset: Dataset, run: str) -> tuple[Progress, Tensor]:
    """How the run went, and the vectors of its best epoch, users first: (N, D) float32."""
    source, target = _locations(config)
    log, metrics = MetricsLog(target), TrainingMetrics("pretrain-graph")

    def on_report(row: dict[str, Any]) -> None:
        metrics.record(row)
        _log_epoch(log, row)

    with metrics.running():
        outcome = fit(
            train_loop_per_worker,
            {"config": config.model_copy(update={"dataset": source.shared_uri}), "run": run},
            scaling=config.scaling,
            storage=target / _CHECKPOINTS,
            name="pretrain-graph",
            on_report=on_report,
        )
    progress = read_progress(outcome.read_checkpoint_file, run)
    return progress, read_best(
        outcome.read_checkpoint_file, progress.num_parts, dataset.num_users + dataset.num_items
    )


def _log_epoch(log: MetricsLog, row: dict[str, Any]) -> None:
    log.add(row)
    scores = "".join(f", {name} {row[name]:.4f}" for name in (RECALL, SCORE) if name in row)
    logger.info("epoch %d: loss %.4f%s (%.1f s)", row["epoch"], row["loss"], scores, row["seconds"])


def _check(dataset: Dataset, config: PretrainGraphConfig) -> None:
    """What the workers would only stumble over later."""
    check_edges(split_edges(dataset, "train"), dataset.num_users, dataset.num_items)
    for split in _HELD_OUT:
        check_edges(
            split_edges(dataset, split),
            dataset.num_users,
            dataset.num_items,
            f"{split} interactions",
        )
    num_nodes = dataset.num_users + dataset.num_items
    if config.parallelism == "partitioned" and num_nodes < config.scaling.num_workers:
        raise ConfigError(
            f"parallelism: {num_nodes} users and items cannot be partitioned among {config.scaling.num_workers} workers; "
            "lower scaling.num_workers, or set parallelism to replicated"
        )


def _final_metrics(dataset: Dataset, vectors: Tensor, progress: Progress) -> dict[str, Any]:
    users, items = vectors[: dataset.num_users], vectors[dataset.num_users :]
    train = split_edges(dataset, "train")
    reports: dict[str, dict[str, Any]] = {
        split: ranking_report(users, items, train, split_edges(dataset, split))
        for split in _HELD_OUT
    }
    for split, report in reports.items():
        logger.info(
            "%s: %s", split, ", ".join(f"{name} {report[name]:.4f}" for name in (RECALL, SCORE))
        )
    return {"best_epoch": progress.best_epoch, **reports}


def _locations(config: PretrainGraphConfig) -> tuple[Location, Location]:
    """Dataset in, graph out."""
    return open_location(config.artifact("dataset"), config.storage), open_location(
        config.artifact("graph"), config.storage
    )


def _settings(config: PretrainGraphConfig) -> dict[str, Any]:
    """What the artifact's content depends on: not the workers, their mode, or how often they save."""
    training = config.training.model_dump(mode="json", exclude={"epochs_per_checkpoint"})
    return {"model": config.model.model_dump(mode="json"), "training": training}
