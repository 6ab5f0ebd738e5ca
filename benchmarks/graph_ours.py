"""xrec's own training of the graph.

It runs in this process by xrec.graph alone, without Ray, or as the whole job `xrec pretrain-graph`.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor

from benchmarks.graph_data import BenchmarkData, Snapshot, Stopwatch, Vectors
from xrec.config.base import parse_config
from xrec.config.graph import PretrainGraphConfig
from xrec.config.project import load_config
from xrec.graph import (
    LightGCN,
    Partition,
    batch_loss,
    blend,
    epoch_batches,
    layer0_penalty,
    normalized_adjacency,
    read_graph,
)
from xrec.storage import open_location
from xrec.train.graph_model import GraphData, blend_weight, build_objective, start_embeddings


def read_config(path: Path | None, *, embedding_dim: int, workspace: str) -> PretrainGraphConfig:
    """Return the job's config from the project file at `path`, with another D and workspace.

    It has one worker. If `path` is None, the settings are the defaults.
    """
    overrides = [
        f"workspace={workspace}",
        f"model.embedding_dim={embedding_dim}",
        "scaling.num_workers=1",
    ]
    if path is not None:
        return load_config(PretrainGraphConfig, path, overrides)
    values = {
        "workspace": workspace,
        "model": {"embedding_dim": embedding_dim},
        "scaling": {"num_workers": 1},
    }
    return parse_config(PretrainGraphConfig, values, "defaults")


@dataclass(frozen=True, eq=False)
class Graph:
    """Training edges (2, E) int64 of U users and I items, and their normalized adjacency."""

    edges: Tensor
    num_users: int
    num_items: int
    adjacency: Tensor

    @classmethod
    def of(cls, edges: Tensor, num_users: int, num_items: int) -> "Graph":
        """Return the graph of `edges` with its normalized adjacency."""
        return cls(edges, num_users, num_items, normalized_adjacency(edges, num_users, num_items))

    def start(self, config: PretrainGraphConfig) -> Tensor:
        """Return the layer-0 embeddings (N, D), spectral or random as `config` says."""
        data = GraphData(self.edges, self.num_users, self.num_items)
        return start_embeddings(config, data, Partition.whole(data.num_nodes), torch.device("cpu"))


class Trainer:
    """Trains in one process, an epoch at a time."""

    def __init__(self, graph: Graph, start: Tensor, config: PretrainGraphConfig) -> None:
        """Begin at `start` (N, D), which training does not change."""
        training = config.training
        self._graph = graph
        self._training = training
        self._objective = build_objective(
            training.loss, graph.edges, graph.num_users, graph.num_items
        )
        self._start = start.split([graph.num_users, graph.num_items])
        self._blend_weight = blend_weight(config.model)
        self._model = LightGCN(start.clone(), graph.num_users, config.model.num_layers)
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=training.learning_rate)

    def epoch(self, number: int) -> float:
        """Go through all interactions once; return the mean loss of the steps."""
        training, losses = self._training, []
        batches = epoch_batches(
            self._graph.edges,
            self._objective.negatives,
            steps_per_epoch=training.steps_per_epoch,
            micro_batch_size=training.micro_batch_size,
            seed=training.seed,
            epoch=number,
        )
        for batch in batches:
            self._optimizer.zero_grad()
            users, items = self._model(self._graph.adjacency)
            loss = batch_loss(users, items, batch, self._objective)
            penalty = (
                training.l2_weight * layer0_penalty(self._model, batch, self._objective)
                if training.l2_weight
                else 0.0
            )
            (loss + penalty).backward()
            self._optimizer.step()
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    @torch.no_grad()
    def vectors(self) -> Vectors:
        """Return the vectors that rank."""
        trained = self._objective.vectors(*self._model(self._graph.adjacency))
        return Vectors(*blend(trained, self._start, self._blend_weight))


def train_ours(
    data: BenchmarkData, *, config: PretrainGraphConfig, budget_seconds: float
) -> Iterator[Snapshot]:
    """Yield the start as epoch 0, and then each epoch until the config's last one.

    It ends earlier if the budget is used up.
    """
    watch = Stopwatch()
    with watch.running():
        graph = Graph.of(data.train, data.num_users, data.num_items)
        start = graph.start(config)
    yield watch.snapshot(0, Vectors(*start.split([data.num_users, data.num_items])))
    with watch.running():
        trainer = Trainer(graph, start, config)
    for epoch in range(1, config.training.num_epochs + 1):
        with watch.running():
            trainer.epoch(epoch)
            vectors = trainer.vectors()
        yield watch.snapshot(epoch, vectors)
        if watch.seconds >= budget_seconds:
            return


def run_job(*, config: PretrainGraphConfig, dataset: str, folder: Path) -> Iterator[Snapshot]:
    """Run `xrec pretrain-graph` as a user does; its graph goes to `folder`.

    Its seconds include the start of Ray and all evaluations.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path, graph = folder / "pretrain-graph.yaml", folder / "graph"
    values = config.model_copy(update={"dataset": dataset, "graph": str(graph)})
    path.write_text(yaml.safe_dump({"pretrain-graph": values.model_dump(mode="json")}))
    start = time.perf_counter()
    subprocess.run([Path(sys.executable).with_name("xrec"), "pretrain-graph", path], check=True)
    seconds = time.perf_counter() - start
    embeddings = read_graph(open_location(str(graph)))
    yield Snapshot(
        seconds,
        None,
        embeddings.manifest.metrics["best_epoch"],
        Vectors(embeddings.users, embeddings.items),
    )
