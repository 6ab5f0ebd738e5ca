"""Graph vectors side by side: `python -m benchmarks.graph quality DATASET...`, from the root.

Ours are the vectors of the graph artifact beside each dataset, as `xrec pretrain-graph` made them.
The other methods are trained here. Each ranks for the same data by the same metric, and has the
seconds of its own work: its set-up included, reading and evaluation not; those of ours are its
epochs', with evaluation. Every snapshot is a line of results.jsonl in --output, with date,
processor and load.
"""

import warnings
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.graph_data import RECALL, Evaluator, read_data
from benchmarks.graph_methods import METHODS, Budget
from benchmarks.report import Record, Results, markdown, write_tables

app = typer.Typer(
    help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)


@app.callback()
def _quiet() -> None:
    warnings.filterwarnings("ignore", message="Sparse (invariant checks|CSR tensor support)")


@app.command()
def quality(
    datasets: Annotated[
        list[str], typer.Argument(help="URIs of dataset artifacts, e.g. workspace/yelp/dataset.")
    ],
    method: Annotated[
        list[str] | None, typer.Option(help=f"Any of {', '.join(METHODS)}; by default all.")
    ] = None,
    embedding_dim: Annotated[int, typer.Option(min=1, help="D, length of a vector.")] = 64,
    budget_seconds: Annotated[
        float, typer.Option(help="Time of recipe, without evaluation.")
    ] = 480,
    epochs_per_snapshot: Annotated[
        int, typer.Option(min=1, help="Epochs of recipe between evaluations.")
    ] = 5,
    threads: Annotated[
        int, typer.Option(min=1, help="Of torch and implicit; BLAS has OMP_NUM_THREADS.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Seed of everything drawn.")] = 0,
    output: Annotated[Path, typer.Option(help="Folder of results.jsonl and quality.md.")] = Path(
        "workspace/benchmarks/graph"
    ),
) -> None:
    """Validation and test Recall@20 and NDCG@20 of each method's best epoch, by its seconds."""
    torch.set_num_threads(threads)
    rows = []
    for uri in datasets:
        data, graph = read_data(uri), f"{uri.rpartition('/')[0]}/graph"
        evaluate = Evaluator(data)
        budget = Budget(embedding_dim, seed, threads, budget_seconds, epochs_per_snapshot, graph)
        for name in method or METHODS:
            points = []
            for snapshot in METHODS[name](data, budget):
                scores = evaluate(snapshot.scores)
                points.append({**vars(snapshot), "scores": scores})
                about = {"kind": "point", "dataset": data.name, "method": name}
                Results(output).append({**about, "D": embedding_dim, **points[-1]})
                typer.echo(f"{data.name} {name}, epoch {snapshot.epoch}: {scores}")
            rows.append({"dataset": data.name, "method": name, **best_row(points)})
    write_tables(output, "quality", {f"D = {embedding_dim}": rows})
    typer.echo(f"\n{markdown(rows)}")


def best_row(points: list[Record]) -> Record:
    """The scores and seconds of the point with the best validation recall."""
    best = max(points, key=lambda point: point["scores"]["validation"][RECALL])
    scores = {
        f"{split} {metric}": round(value, 4)
        for split, of_split in best["scores"].items()
        for metric, value in of_split.items()
    }
    names = ("seconds", "cpu_seconds")
    times = {name: best[name] and round(best[name], 1) for name in names}
    return {**scores, "epoch": best["epoch"], **times}


if __name__ == "__main__":
    app()
