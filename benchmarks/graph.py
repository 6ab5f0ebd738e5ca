"""Graph vectors side by side: `python -m benchmarks.graph quality DATASET...`, from the root.

Ours are the vectors of the graph artifact beside each dataset, as `xrec pretrain-graph` made them.
The other methods are trained here. Each ranks for the same data by the same metric, and has the
seconds of its own work: its set-up included, reading and evaluation not; those of ours are its
epochs', with evaluation. Every snapshot is a line of results.jsonl in --output, with date,
processor and load. The memory is the most that the process held while the method ran.
"""

import warnings
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.bulk_work import forget_peak, peak_mb
from benchmarks.graph_methods import METHODS, BenchmarkData, Budget, Vectors
from benchmarks.graph_workers import OPTIMIZERS, Setting, measured, reckoned
from benchmarks.report import (
    BENCHMARKS,
    Contestants,
    Output,
    Record,
    Results,
    Threads,
    command_line,
    known,
    write_tables,
)
from xrec.data import read_dataset
from xrec.graph.ranking import SeenItems, metrics_of, top_k_items, users_with_items
from xrec.storage import open_location

app = command_line(__doc__)

RECALL = "recall@20"
VALIDATION, TEST = f"validation {RECALL}", f"test {RECALL}"


@app.callback()
def _quiet() -> None:
    warnings.filterwarnings("ignore", message="Sparse (invariant checks|CSR tensor support)")


@app.command()
def quality(
    datasets: Annotated[
        list[str], typer.Argument(help="URIs of dataset artifacts, e.g. workspace/yelp/dataset.")
    ],
    method: Contestants = None,
    embedding_dim: Annotated[int, typer.Option(min=1, help="D, length of a vector.")] = 64,
    budget_seconds: Annotated[
        float, typer.Option(help="Time of recipe, without evaluation.")
    ] = 480,
    threads: Threads = 1,
    output: Output = BENCHMARKS / "graph",
) -> None:
    """Recall@20 and NDCG@20 of each method's best epoch or setting on validation."""
    torch.set_num_threads(threads)
    rows = []
    for uri in datasets:
        data = read_data(uri)
        graph = f"{uri.rpartition('/')[0]}/graph"
        budget = Budget(embedding_dim, threads, budget_seconds, graph)
        for name in known(method, list(METHODS), "method"):
            points = []
            forget_peak()
            for snapshot in METHODS[name](data, budget):
                about: dict[str, Any] = {"dataset": Path(uri).resolve().parent.name, "method": name}
                cost = {"setting": snapshot.setting, "seconds": round(snapshot.seconds, 1)}
                memory = {"peak GiB": round(peak_mb() / 1024, 2)}
                points.append(about | scores(data, snapshot.vectors) | cost | memory)
                Results(output).append("graph", points[-1])
            rows.append(max(points, key=lambda point: point[VALIDATION]))
    write_tables(output, "quality", {f"D = {embedding_dim}": rows})


@app.command()
def workers(
    num_workers: Annotated[
        list[int] | None, typer.Option(help="W; the first is the reference; by default 1 to 8.")
    ] = None,
    num_nodes: Annotated[int, typer.Option(min=10, help="Users and items, drawn 3 to 2.")] = 10_000,
    num_edges: Annotated[int, typer.Option(min=1, help="Interactions, before repeats.")] = 100_000,
    embedding_dim: Annotated[int, typer.Option(min=1, help="D, length of a vector.")] = 64,
    num_layers: Annotated[int, typer.Option(min=0, help="L, layers of propagation.")] = 2,
    num_steps: Annotated[int, typer.Option(min=1, help="Steps to count and time.")] = 20,
    optimizer: Annotated[str, typer.Option(help="One of " + ", ".join(OPTIMIZERS))] = "adam",
    output: Output = BENCHMARKS / "graph",
) -> None:
    """Collectives, bytes, rows and seconds of a step by W workers; losses and tables as by one."""
    known([optimizer], list(OPTIMIZERS), "optimizer")
    num_users, worlds = num_nodes * 3 // 5, num_workers or [1, 2, 4, 8]
    setting = Setting(num_users, num_nodes - num_users, num_edges, embedding_dim, num_layers)
    setting = setting._replace(num_steps=num_steps, optimizer=optimizer)
    tables = {
        f"a step, {optimizer}": measured(setting, worlds),
        "reckoned": [reckoned(setting, number) for number in (*worlds, 100, 1000)],
    }
    write_tables(output, "workers", tables)


def read_data(uri: str) -> BenchmarkData:
    """Read the dataset artifact at `uri`."""
    dataset = read_dataset(open_location(uri))
    train, validation, test = (
        torch.from_numpy(dataset.interaction_edges(split))
        for split in ("train", "validation", "test")
    )
    return BenchmarkData(dataset.num_users, dataset.num_items, train, validation, test)


@torch.no_grad()
def scores(data: BenchmarkData, vectors: Vectors) -> Record:
    """Recall@20 and NDCG@20 on validation and test, without the training items."""
    seen = SeenItems(data.train)
    found = {}
    for name, edges in ((VALIDATION, data.validation), (TEST, data.test)):
        items, users = SeenItems(edges), users_with_items(edges)
        ranked = top_k_items(vectors.users, vectors.items, seen, users, 20, more=vectors.more)
        metrics = metrics_of(ranked, items, data.num_items, (20,))[0]
        found[name] = round(metrics[RECALL], 4)
        found[name.replace("recall", "ndcg")] = round(metrics["ndcg@20"], 4)
    return found


if __name__ == "__main__":
    app()
