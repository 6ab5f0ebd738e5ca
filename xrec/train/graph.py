"""The graph's recipe, on the driver: the dataset in, LightGCN's vectors as the graph artifact out.

`pretrain_graph` checks the dataset, trains on Ray Train workers (xrec.train.graph_worker), and
writes the best epoch. Rerunning an interrupted run resumes it from its last checkpoint.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from xrec.config import GraphTrainingConfig, PretrainGraphConfig, Split
from xrec.data import Dataset, edges_of, read_dataset
from xrec.errors import ConfigError
from xrec.graph.adjacency import check_edges
from xrec.graph.artifact import EMBEDDINGS, read_graph, write_graph
from xrec.graph.blend import settled, turned_onto
from xrec.graph.identity import LAYER0, START_FROM, graph_identity
from xrec.graph.leave_out import TRAINING_VECTORS, TrainingVectors, fold_numbers
from xrec.graph.ranking import ranking_report
from xrec.storage import (
    CHECKPOINTS,
    Manifest,
    ancestry,
    file_of_zeros,
    location_of,
    open_location,
    run_fingerprint,
    storage_errors,
)
from xrec.train.checkpoint import GraphProgress, Tensors, read_progress, read_rows
from xrec.train.graph_model import (
    RECALL,
    SCORE,
    VALIDATION_USERS,
    GraphData,
    split_edges,
)
from xrec.train.graph_worker import train_worker
from xrec.train.ray_driver import fit, train_once

logger = logging.getLogger("xrec")

_HELD_OUT: tuple[Split, ...] = ("validation", "test")
KEEP_WITHIN = 0.2
"""A vector from `start_from` that moved by at most this share of its length is kept unchanged.

Such a move changes neither texts nor rankings noticeably (docs/graph.md).
"""
_FINAL_USERS = 10 * VALIDATION_USERS
"""Maximum number of users that the final metrics are averaged over."""


def pretrain_graph(
    config: PretrainGraphConfig, cluster: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Manifest:
    """Train and write the graph artifact, unless it is finished; return its manifest.

    The best epoch by validation NDCG@20 is kept. Users and items without edges get zero vectors.

    cluster: keeps Ray initialized; by default it already is.

    Raises ArtifactMismatchError if another run's graph or checkpoints exist, DataError for an empty
    graph, indices out of range, or a split without interactions, ConfigError if it has fewer nodes
    than there are workers, and TrainingError.
    """
    output = location_of(config, "graph")
    return train_once(output, "graph", graph_identity(config), partial(_make, config), cluster)


def _make(
    config: PretrainGraphConfig, settings: dict[str, Any], inputs: dict[str, str]
) -> Manifest:
    dataset = read_dataset(location_of(config, "dataset"))
    data = GraphData.of(dataset, with_aspects=config.model.aspects)
    _check(dataset, data, config)
    run = run_fingerprint("graph", settings, inputs)
    progress, vectors, layer0 = _train(config, data, run)
    moves: dict[str, Any] = {}
    if config.start_from is not None:
        vectors, moves = _settled(config, data, vectors)
    users, items, aspects = _tables(data, vectors)
    whole = vectors[: data.num_users + data.num_items]
    training = _training_vectors(config, dataset, whole, progress, run)
    tables = {EMBEDDINGS: {"users": users, "items": items}}
    if len(aspects):
        tables[EMBEDDINGS]["aspects"] = aspects
    tables[LAYER0] = dict(zip(("users", "items"), _tables(data, layer0), strict=False))
    if training is not None:
        tables[TRAINING_VECTORS] = {"users": training.users, "items": training.items}
    return write_graph(
        location_of(config, "graph"),
        tables,
        progress.history,
        config=settings,
        inputs=inputs,
        metrics={**_final_metrics(dataset, users, items, progress, config.training), **moves},
    )


def _tables(data: GraphData, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return users (U, D), items (I, D), and aspects (A, D); zeros for nodes without edges."""
    vectors[data.degrees() == 0] = 0  # they only have the noise of their initialization
    sizes = [data.num_users, data.num_items, data.aspects.num_aspects]
    users, items, aspects = vectors.split(sizes)
    return users, items, aspects


def _settled(
    config: PretrainGraphConfig, data: GraphData, vectors: Tensor
) -> tuple[Tensor, dict[str, Any]]:
    """Return the vectors (N, D) rotated onto those of `start_from`, and how many rows moved."""
    graph = read_graph(open_location(str(config.start_from), config.storage))
    earlier, is_known = data.rows_of(graph.users, graph.items, torch.arange(data.num_nodes))
    vectors[data.degrees() == 0] = 0
    vectors = settled(vectors, earlier, KEEP_WITHIN)
    moved = is_known & (vectors != earlier).any(dim=1)
    counts = {"num_known": int(is_known.sum()), "num_moved": int(moved.sum())}
    logger.info("%(num_moved)d of %(num_known)d earlier vectors moved", counts)
    return vectors, {START_FROM: ancestry(graph.manifest, START_FROM), **counts}


def _training_vectors(
    config: PretrainGraphConfig, dataset: Dataset, whole: Tensor, progress: GraphProgress, run: str
) -> TrainingVectors | None:
    """Return vectors of the explained training pairs from graphs without them; None without folds.

    whole: (U + I, D), the graph's own vectors. Each fold's graph is trained for as many epochs as
    the best epoch of the whole one, unless that started from an earlier graph. A fold's graph never
    does, because earlier vectors have seen the pairs that it leaves out.
    """
    pairs = torch.from_numpy(edges_of(dataset.explained_pairs("train")))
    num_folds = min(config.folds, pairs.shape[1])
    if num_folds < 2:
        return None
    epochs = {"num_epochs": progress.best_epoch, "epochs_per_evaluation": progress.best_epoch}
    training = config.training.model_copy(update={} if config.start_from else epochs)
    changes = {"training": training, "folds": num_folds, "start_from": None}
    of_fold = config.model_copy(update=changes)
    folds = torch.from_numpy(fold_numbers(pairs[0].numpy(), num_folds))
    vectors_of_pairs = TrainingVectors(
        *(torch.zeros(pairs.shape[1], whole.shape[1]) for _ in range(2))
    )
    for fold in range(num_folds):
        logger.info("training without fold %d of %d", fold + 1, num_folds)
        data = GraphData.of(dataset, with_aspects=config.model.aspects, fold=(fold, num_folds))
        _, vectors, _ = _train(of_fold, data, f"{run}-{fold}", fold)
        users, items, _ = _tables(data, vectors)
        data.delete_files()
        users, items = turned_onto(vectors[: len(whole)], whole).split([len(users), len(items)])
        of_pairs = (folds == fold).nonzero()[:, 0]
        vectors_of_pairs.users[of_pairs] = users[pairs[0, of_pairs]]
        vectors_of_pairs.items[of_pairs] = items[pairs[1, of_pairs]]
    return vectors_of_pairs


def _check(dataset: Dataset, data: GraphData, config: PretrainGraphConfig) -> None:
    """Raise early what the workers would raise."""
    check_edges(data.edges, data.num_users, data.num_items)
    for split in _HELD_OUT:
        edges = split_edges(dataset, split)
        check_edges(edges, data.num_users, data.num_items, f"{split} interactions")
    num_workers = config.workers.num_processes
    if data.num_nodes < num_workers:
        raise ConfigError(
            f"workers.num_processes is {num_workers}, but the graph has only {data.num_nodes} "
            "nodes, and each worker needs one; lower it",
            code="too_many_workers",
            key="workers.num_processes",
            saw=num_workers,
        )


def _train(
    config: PretrainGraphConfig, data: GraphData, run: str, fold: int | None = None
) -> tuple[GraphProgress, Tensor, Tensor]:
    """Run the workers; return the progress, and the best epoch's vectors and layer-0 embeddings.

    data: of the whole dataset, or without the fold. Both tables are (N, D) float32 (users, items,
    aspects), mapped from deleted files.
    """
    name = "pretrain-graph" if fold is None else f"pretrain-graph-without-{fold}"
    checkpoint = fit(
        train_worker,
        {"config": config, "run": run, "fold": fold},
        workers=config.workers,
        storage=location_of(config, "graph") / CHECKPOINTS,
        name=name,
        on_report=_log_epoch if fold is None else None,  # of folds, only steps are logged
    )
    progress = read_progress(GraphProgress, lambda name: (checkpoint / name).read_bytes(), run)
    with TemporaryDirectory() as folder:

        def load(name: str) -> Tensors:
            file, part = checkpoint / name, f"{folder}/part"
            with storage_errors(file.uri):
                file.fs.get_file(file.path, part)
            tensors: Tensors = safetensors.torch.load_file(part)
            return tensors

        def zeros(name: str, shape: tuple[int, int]) -> Tensor:
            return torch.from_numpy(file_of_zeros(Path(folder) / name, shape))

        nodes, names = torch.arange(data.num_nodes), ("best", "best_layer0")
        rows = read_rows(load, progress.num_parts, nodes, names, zeros)
    return progress, rows["best"], rows["best_layer0"]


def _log_epoch(row: dict[str, Any]) -> None:
    scores = "".join(f", {name} {row[name]:.4f}" for name in (RECALL, SCORE) if name in row)
    if row["epoch"] == 0:
        logger.info("start%s", scores)
        return
    logger.info("epoch %d: loss %.4f%s (%.1f s)", row["epoch"], row["loss"], scores, row["seconds"])


def _final_metrics(
    dataset: Dataset,
    users: Tensor,
    items: Tensor,
    progress: GraphProgress,
    training: GraphTrainingConfig,
) -> dict[str, Any]:
    train = split_edges(dataset, "train")
    reports: dict[str, dict[str, Any]] = {
        split: ranking_report(
            users,
            items,
            train,
            split_edges(dataset, split),
            most_users=_FINAL_USERS,
            seed=training.seed,
            lost_items=torch.from_numpy(dataset.lost_items),
        )
        for split in _HELD_OUT
    }
    for split, ranking in reports.items():
        scores = ", ".join(f"{name} {ranking[name]:.4f}" for name in (RECALL, SCORE))
        logger.info("%s: %s", split, scores)
    return {"best_epoch": progress.best_epoch, **reports}
