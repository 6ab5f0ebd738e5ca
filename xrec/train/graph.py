"""The graph's recipe: the dataset artifact in, LightGCN's vectors as the graph artifact out.

The driver checks the dataset, runs the workers (graph_worker) by Ray Train, logs their epochs, and
writes the best one. A run that was stopped in any way goes on from its last checkpoint when it is
started again.
"""

import logging
from typing import Any

from torch import Tensor

from xrec.config.graph import PretrainGraphConfig
from xrec.config.shared import Split
from xrec.data.dataset import Dataset, read_dataset
from xrec.errors import ConfigError
from xrec.graph import (
    check_edges,
    dataset_aspect_edges,
    embeddings_bytes,
    node_degrees,
    ranking_report,
    write_graph,
)
from xrec.graph.artifact import METRICS
from xrec.storage import Location, Manifest, finished, location_of, read_manifest, run_fingerprint
from xrec.train.checkpoint import GraphProgress, claim, read_best_vectors, read_progress
from xrec.train.data import RECALL, SCORE, split_edges
from xrec.train.graph_worker import train_worker
from xrec.train.lease import CHECKPOINTS, only_driver
from xrec.train.metrics import MetricsLog, TrainingMetrics
from xrec.train.ray_driver import fit

logger = logging.getLogger("xrec")

_HELD_OUT: tuple[Split, ...] = ("validation", "test")


def pretrain_graph(config: PretrainGraphConfig) -> Manifest:
    """Train the graph encoder and write the graph artifact; return its manifest.

    If this run is already finished, its manifest is returned at once. The best epoch by validation
    NDCG@20 is kept. Users and items without any edge have vectors of zeros. Ray must be
    initialised. Raises ArtifactMismatchError if another run's graph or checkpoints are at the
    output, DataError for an empty graph, ids out of range or a split without interactions,
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
    num_aspects = len(vectors) - dataset.num_users - dataset.num_items
    vectors[: len(vectors) - num_aspects][_without_edges(dataset, config)] = 0
    users, items, aspects = vectors.split([dataset.num_users, dataset.num_items, num_aspects])
    embeddings = embeddings_bytes(users, items, aspects if num_aspects else None)
    with only_driver(target / CHECKPOINTS):  # ranking all held-out users takes a while
        metrics = _final_metrics(dataset, users, items, progress)
        manifest = write_graph(
            target,
            embeddings,
            progress.history,
            config=_settings(config),
            inputs=inputs,
            metrics=metrics,
        )
    (target / CHECKPOINTS).delete()
    return manifest


def pretrained_graph(config: PretrainGraphConfig) -> Manifest | None:
    """Return the manifest if this run is already finished, else None; needs no Ray.

    Raises ArtifactNotFoundError without a dataset, and ArtifactMismatchError if another run's graph
    or checkpoints are at the output.
    """
    _, target = _locations(config)
    settings, inputs = graph_identity(config)
    done = finished(target, "graph", settings, inputs)
    if done is not None:
        logger.info("%s: this graph is already trained", target)
        return done
    if not claim(target / CHECKPOINTS, "graph", settings, inputs):
        (target / METRICS).delete()  # of a run whose checkpoints were deleted
    return None


def graph_identity(config: PretrainGraphConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings that the graph's content depends on, and the dataset's fingerprint.

    Raises ArtifactNotFoundError without a dataset.
    """
    source, _ = _locations(config)
    return _settings(config), {"dataset": read_manifest(source, "dataset").fingerprint}


def _locations(config: PretrainGraphConfig) -> tuple[Location, Location]:
    """Return where the dataset is and where the graph goes."""
    return location_of(config, "dataset"), location_of(config, "graph")


def _settings(config: PretrainGraphConfig) -> dict[str, Any]:
    """Return the settings that the graph's content depends on.

    The number of workers, their mode and the time of checkpoints are not among them.
    """
    training = config.training.model_dump(mode="json", exclude={"epochs_per_checkpoint"})
    # A graph without aspects has the settings that it had before there were any.
    model = config.model.model_dump(mode="json", exclude_none=True)
    return {"model": model, "training": training}


def _check(dataset: Dataset, config: PretrainGraphConfig) -> None:
    """Raise now what the workers would raise later."""
    num_users, num_items = dataset.num_users, dataset.num_items
    check_edges(split_edges(dataset, "train"), num_users, num_items)
    for split in _HELD_OUT:
        check_edges(split_edges(dataset, split), num_users, num_items, f"{split} interactions")
    num_aspects = dataset_aspect_edges(dataset, config.model.aspects).num_aspects
    num_nodes, num_workers = num_users + num_items + num_aspects, config.scaling.num_workers
    if config.parallelism == "partitioned" and num_nodes < num_workers:
        raise ConfigError(
            f"parallelism: {num_nodes} nodes cannot be partitioned among {num_workers} "
            "workers; lower scaling.num_workers, or set parallelism to replicated"
        )


def _without_edges(dataset: Dataset, config: PretrainGraphConfig) -> Tensor:
    """Which users and items, (U + I,) bool, have no edge: what training left them is noise."""
    degrees = node_degrees(
        split_edges(dataset, "train"),
        dataset.num_users,
        dataset.num_items,
        dataset_aspect_edges(dataset, config.model.aspects),
    )
    return degrees[: dataset.num_users + dataset.num_items] == 0


def _train(config: PretrainGraphConfig, dataset: Dataset, run: str) -> tuple[GraphProgress, Tensor]:
    """Run the workers; return how the run went, and the vectors of its best epoch.

    The vectors are (N, D) float32: users, items, aspects.
    """
    source, target = _locations(config)
    log, exported = MetricsLog(target), TrainingMetrics("pretrain-graph")

    def on_report(row: dict[str, Any]) -> None:
        exported.record(row)
        _log_epoch(log, row)

    with exported.running():
        outcome = fit(
            train_worker,
            {"config": config.model_copy(update={"dataset": source.shared_uri}), "run": run},
            scaling=config.scaling,
            storage=target / CHECKPOINTS,
            name="pretrain-graph",
            on_report=on_report,
        )
    read, num_nodes = outcome.read_checkpoint_file, dataset.num_users + dataset.num_items
    num_nodes += dataset_aspect_edges(dataset, config.model.aspects).num_aspects
    progress = read_progress(GraphProgress, read, run)
    return progress, read_best_vectors(read, progress.num_parts, num_nodes)


def _log_epoch(log: MetricsLog, row: dict[str, Any]) -> None:
    log.add(row)
    scores = "".join(f", {name} {row[name]:.4f}" for name in (RECALL, SCORE) if name in row)
    logger.info("epoch %d: loss %.4f%s (%.1f s)", row["epoch"], row["loss"], scores, row["seconds"])


def _final_metrics(
    dataset: Dataset, users: Tensor, items: Tensor, progress: GraphProgress
) -> dict[str, Any]:
    train = split_edges(dataset, "train")
    reports: dict[str, dict[str, Any]] = {
        split: ranking_report(users, items, train, split_edges(dataset, split))
        for split in _HELD_OUT
    }
    for split, ranking in reports.items():
        scores = ", ".join(f"{name} {ranking[name]:.4f}" for name in (RECALL, SCORE))
        logger.info("%s: %s", split, scores)
    return {"best_epoch": progress.best_epoch, **reports}
