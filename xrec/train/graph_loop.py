"""Graph pretraining: LightGCN with BPR on Ray Train workers, from the dataset artifact to the graph artifact.

Each worker holds and propagates the whole graph and computes its slice of each global batch (replicated mode).
"""

import logging
import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from xrec.config import GraphTrainingConfig, PretrainGraphConfig, Split
from xrec.data.dataset import Dataset, read_dataset
from xrec.errors import ConfigError, TrainingError
from xrec.graph import (
    EMBEDDINGS,
    LightGCN,
    NegativeSampler,
    SeenItems,
    Triples,
    bpr_loss,
    check_edges,
    embeddings_bytes,
    epoch_triples,
    l2_penalty,
    normalized_adjacency,
    parse_embeddings,
    ranking_metrics,
    users_with_items,
    write_graph,
)
from xrec.storage import Location, Manifest, finished, open_location, read_manifest
from xrec.train.ray_loop import fit, initialize_engine, rank, report, worker_device, world_size

logger = logging.getLogger("xrec")

K = 20
RECALL, SCORE = f"recall@{K}", f"ndcg@{K}"


def pretrain_graph(config: PretrainGraphConfig) -> Manifest:
    """Train the graph encoder and write the graph artifact; returns its manifest, at once if this run is already done.

    The best epoch by validation NDCG@20 is kept; the test split is ranked once, at the end. Ray must be initialised.
    Raises ArtifactMismatchError if another run's graph is at the output, DataError for an empty graph, ids out of range
    or a split without interactions, ConfigError for a batch that cannot be split among the workers, TrainingError.
    """
    done = pretrained_graph(config)
    if done is not None:
        return done
    source, target = _locations(config)
    dataset = read_dataset(source)
    _check(dataset, config)
    checkpoints = target / "checkpoints"
    outcome = fit(
        train_loop_per_worker,
        {"dataset": source.shared_uri, "storage": config.storage, "model": config.model, "training": config.training},
        scaling=config.scaling,
        storage=checkpoints,
        name="pretrain-graph",
        score=SCORE,
        mode="max",
        on_report=_log_epoch,
    )
    embeddings = outcome.read_checkpoint_file(EMBEDDINGS)
    metrics = _final_metrics(dataset, embeddings, outcome.best)
    inputs = {"dataset": dataset.manifest.fingerprint}
    manifest = write_graph(target, embeddings, outcome.history, config=_settings(config), inputs=inputs, metrics=metrics)
    checkpoints.delete()
    return manifest


def pretrained_graph(config: PretrainGraphConfig) -> Manifest | None:
    """The manifest, if this run is already done; needs no Ray.

    Raises ArtifactNotFoundError without a dataset, ArtifactMismatchError if another run's graph is at the output.
    """
    source, target = _locations(config)
    done = finished(target, "graph", _settings(config), {"dataset": read_manifest(source, "dataset").fingerprint})
    if done is not None:
        logger.info("%s: this graph is already trained", target)
    return done


def train_loop_per_worker(config: dict[str, Any]) -> None:
    """One worker: every epoch, its slices of the global batches, then its share of the validation users."""
    training: GraphTrainingConfig = config["training"]
    dataset = read_dataset(open_location(config["dataset"], config["storage"]))
    edges = _edges(dataset, "train")
    sampler = NegativeSampler(edges, dataset.num_users, dataset.num_items)
    validation = _HeldOut.of(dataset, "validation")
    adjacency = normalized_adjacency(edges, dataset.num_users, dataset.num_items).to(worker_device())
    torch.manual_seed(training.seed)
    model = LightGCN(dataset.num_users, dataset.num_items, config["model"].embedding_dim, config["model"].num_layers).to(worker_device())
    optimizer = torch.optim.Adam(model.parameters(), lr=training.learning_rate)
    engine = initialize_engine(model, optimizer, _deepspeed_config(training))
    best, evaluations_without_gain, start = -1.0, 0, time.monotonic()
    for epoch in range(1, training.num_epochs + 1):
        triples = epoch_triples(edges, sampler, training.seed, epoch)
        loss = _train_epoch(engine, adjacency, triples, training)
        if not math.isfinite(loss):
            raise TrainingError(f"the loss of epoch {epoch} is {loss}; expected a finite number; lower training.learning_rate")
        if epoch % training.epochs_per_evaluation and epoch < training.num_epochs:
            continue
        users, items = _vectors(model, adjacency)
        metrics = validation.score_together(users, items)
        gained = metrics[SCORE] > best
        best, evaluations_without_gain = (metrics[SCORE], 0) if gained else (best, evaluations_without_gain + 1)
        files = {EMBEDDINGS: embeddings_bytes(users.cpu(), items.cpu())} if gained and rank() == 0 else None
        report({"epoch": epoch, "loss": loss, **metrics, "seconds": round(time.monotonic() - start, 3)}, files)
        if evaluations_without_gain == training.patience:
            break
        start = time.monotonic()


def _train_epoch(engine: Any, adjacency: Tensor, triples: Triples, training: GraphTrainingConfig) -> float:
    """One pass; returns the mean loss a triple over all workers."""
    total = torch.zeros((), device=adjacency.device)
    for batch in triples.split(_num_batches(len(triples), training)):
        part = list(batch.split(world_size()))[rank()]
        # DeepSpeed averages the workers' gradients; slices may differ by one triple, each triple must weigh the same.
        share = len(part) / len(batch)
        loss = _loss(engine, adjacency, part, training.l2_weight)
        engine.backward(loss * (share * world_size()))
        engine.step()
        total += loss.detach() * len(part)
    torch.distributed.all_reduce(total)
    return float(total) / len(triples)


def _loss(engine: Any, adjacency: Tensor, part: Triples, l2_weight: float) -> Tensor:
    users, items = engine(adjacency)
    table = engine.module.embeddings
    u, i, j = (column.to(adjacency.device) for column in (part.users, part.pos_items, part.neg_items))
    user, pos, neg = users[u], items[i], items[j]  # (B, D)
    ranking = bpr_loss((user * pos).sum(dim=1), (user * neg).sum(dim=1))
    num_users = users.shape[0]
    return ranking + l2_weight * l2_penalty(table[u], table[num_users + i], table[num_users + j])


@torch.no_grad()
def _vectors(model: LightGCN, adjacency: Tensor) -> tuple[Tensor, Tensor]:
    users, items = model(adjacency)
    return users, items


@dataclass(frozen=True)
class _HeldOut:
    """A held-out split, ready to be ranked for again and again; `users` (N,) int64 are those with an item in it."""

    seen: SeenItems
    held_out: SeenItems
    users: Tensor

    @classmethod
    def of(cls, dataset: Dataset, split: Split) -> "_HeldOut":
        held_out = _edges(dataset, split)
        return cls(SeenItems(_edges(dataset, "train"), dataset.num_users), SeenItems(held_out, dataset.num_users), users_with_items(held_out))

    def score(self, users: Tensor, items: Tensor) -> dict[str, float]:
        """{"recall@20", "ndcg@20"} of vectors users (U, D), items (I, D)."""
        metrics = ranking_metrics(users, items, self.seen, self.held_out, self.users, (K,))
        return {name: metrics[name] for name in (RECALL, SCORE)}

    def score_together(self, users: Tensor, items: Tensor) -> dict[str, float]:
        """As `score`, the users shared out among the workers; all get the same numbers, and so stop at the same epoch."""
        part = self.users.tensor_split(world_size())[rank()]
        metrics = replace(self, users=part).score(users, items) if len(part) else dict.fromkeys((RECALL, SCORE), 0.0)
        sums = torch.tensor([value * len(part) for value in metrics.values()], dtype=torch.float64, device=users.device)
        torch.distributed.all_reduce(sums)
        return dict(zip(metrics, (sums / len(self.users)).tolist(), strict=True))


def _deepspeed_config(training: GraphTrainingConfig) -> dict[str, Any]:
    # Stage 1: each worker keeps Adam's moments of its share of the table. Not 2 or 3: every step needs the whole table and
    # makes a dense gradient of it, so sharding those would add traffic and save no peak memory.
    return {
        "train_micro_batch_size_per_gpu": max(1, training.global_batch_size // world_size()),
        "gradient_accumulation_steps": 1,
        "zero_optimization": {"stage": 1},
    }


def _num_batches(num_triples: int, training: GraphTrainingConfig) -> int:
    """Steps of an epoch: the fewest batches of at most `global_batch_size`, all of a size (to one triple)."""
    return math.ceil(num_triples / training.global_batch_size)


def _check(dataset: Dataset, config: PretrainGraphConfig) -> None:
    """What the workers would only stumble over later."""
    edges = _edges(dataset, "train")
    check_edges(edges, dataset.num_users, dataset.num_items)
    held_out: tuple[Split, ...] = ("validation", "test")
    for split in held_out:
        check_edges(_edges(dataset, split), dataset.num_users, dataset.num_items, f"{split} interactions")
    smallest = edges.shape[1] // _num_batches(edges.shape[1], config.training)
    if smallest < config.scaling.num_workers:
        raise ConfigError(
            f"training.global_batch_size {config.training.global_batch_size}: a batch of {smallest} triples cannot be split among "
            f"{config.scaling.num_workers} workers; raise it, or lower scaling.num_workers"
        )


def _final_metrics(dataset: Dataset, embeddings: bytes, best: dict[str, Any]) -> dict[str, Any]:
    metrics = _HeldOut.of(dataset, "test").score(*parse_embeddings(embeddings, EMBEDDINGS))
    logger.info("test: %s", ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    return {"best_epoch": best["epoch"], "validation": {name: best[name] for name in metrics}, "test": metrics}


def _locations(config: PretrainGraphConfig) -> tuple[Location, Location]:
    """Dataset in, graph out."""
    return open_location(config.artifact("dataset"), config.storage), open_location(config.artifact("graph"), config.storage)


def _settings(config: PretrainGraphConfig) -> dict[str, Any]:
    """What the artifact's content depends on; the number of workers is not among it."""
    return {"model": config.model.model_dump(mode="json"), "training": config.training.model_dump(mode="json")}


def _edges(dataset: Dataset, split: Split) -> Tensor:
    return torch.from_numpy(dataset.interaction_edges(split))


def _log_epoch(number: int, metrics: dict[str, Any]) -> None:
    logger.info(
        "epoch %d: loss %.4f, recall@%d %.4f, ndcg@%d %.4f (%.1f s)",
        *(metrics["epoch"], metrics["loss"], K, metrics[RECALL], K, metrics[SCORE], metrics["seconds"]),
    )
