"""Graph vectors side by side: `python -m benchmarks.graph quality|scale|work|bandwidth`.

Run it from the repository's root. All methods have the same data, metric, machine and number of
threads. Results are appended to results.jsonl in --output, with date, processor and load; tables
and the plot are made of that file.
"""

import json
import warnings
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from threadpoolctl import threadpool_limits

from benchmarks import graph_bandwidth, graph_scale, graph_work
from benchmarks.graph_data import BenchmarkData, Evaluator, read_data
from benchmarks.graph_methods import METHODS, Budget, settings_of
from benchmarks.graph_recipe import time_original
from benchmarks.graph_report import RECIPE_ORIGINAL, Report, markdown, plot
from benchmarks.graph_results import Results, point
from benchmarks.graph_synthetic import power_law_edges

app = typer.Typer(
    help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)

DEFAULT_METHODS = [RECIPE_ORIGINAL, *(name for name in METHODS if name != "ours-job")]
Datasets = Annotated[
    list[str], typer.Argument(help="URIs of dataset artifacts, e.g. workspace/yelp/dataset.")
]
Output = Annotated[
    Path, typer.Option(help="Folder of results.jsonl, tables, plot and checkpoints.")
]
Threads = Annotated[int, typer.Option(min=1, help="Threads of torch, BLAS and implicit.")]
Dim = Annotated[int, typer.Option(min=1, help="D, length of a vector.")]
Seed = Annotated[int, typer.Option(help="Seed of everything drawn.")]
DEFAULT_OUTPUT = Path("workspace/benchmarks/graph")


@app.callback()
def _quiet() -> None:
    warnings.filterwarnings("ignore", message="Sparse (invariant checks|CSR tensor support)")


@app.command()
def quality(
    datasets: Datasets,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Any of {', '.join([RECIPE_ORIGINAL, *METHODS])}; by default all but ours-job."
        ),
    ] = None,
    embedding_dim: Dim = 64,
    budget_seconds: Annotated[
        float,
        typer.Option(
            help="Time of each iterative method, without evaluation; `recipe` continues where it "
            "stopped."
        ),
    ] = 480,
    epochs_per_snapshot: Annotated[
        int, typer.Option(min=1, help="Epochs of recipe and pyg-lightgcn between evaluations.")
    ] = 5,
    timed_batches: Annotated[
        int, typer.Option(min=1, help="Batches of the original recipe that are timed.")
    ] = 20,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Project file of ours; by default configs/<dataset>.yaml, or the defaults."
        ),
    ] = None,
    threads: Threads = 1,
    seed: Seed = 0,
    output: Output = DEFAULT_OUTPUT,
    smoke: Annotated[
        bool, typer.Option(help="Only try it out: an epoch of each method, two timed batches.")
    ] = False,
    report: Annotated[
        bool, typer.Option(help="Run nothing; report on the results so far.")
    ] = False,
) -> None:
    """Measure validation and test Recall@20 and NDCG@20 of each method against its seconds.

    Appends the results, and prints the report.
    """
    _use_threads(threads)
    results = Results(output)
    for uri in datasets if not report else []:
        data = read_data(uri)
        own = config or Path("configs") / f"{data.name}.yaml"
        budget = Budget(
            embedding_dim=embedding_dim,
            seed=seed,
            threads=threads,
            seconds=0.0 if smoke else budget_seconds,
            epochs_per_snapshot=epochs_per_snapshot,
            folder=output,
            config=own if own.exists() else None,
            dataset=str(Path(uri).resolve()),
        )
        for name in method or DEFAULT_METHODS:
            if name == RECIPE_ORIGINAL:
                _time_original(data, budget, results, 2 if smoke else timed_batches)
            else:
                _run(name, data, budget, results)
    _report(results)


@app.command()
def scale(
    edges: Annotated[
        list[int] | None, typer.Option(help="Numbers of edges; by default 1e5, 1e6 and 1e7.")
    ] = None,
    largest: Annotated[bool, typer.Option(help="Also run with 3e7 edges.")] = False,
    embedding_dim: Dim = 64,
    steps_per_epoch: Annotated[
        int,
        typer.Option(
            min=1, help="Optimizer steps and propagations of an epoch, the same for all sizes."
        ),
    ] = 64,
    threads: Threads = 1,
    seed: Seed = 0,
    output: Output = DEFAULT_OUTPUT,
    report: Annotated[
        bool, typer.Option(help="Run nothing; print table and slopes of the results so far.")
    ] = False,
) -> None:
    """Measure time and peak memory on power-law graphs of growing size, with edges / 10 nodes.

    Appends the results, and prints a table and slopes.
    """
    results = Results(output)
    sizes = (edges or [100_000, 1_000_000, 10_000_000]) + ([30_000_000] if largest else [])
    settings = {
        "embedding_dim": embedding_dim,
        "steps_per_epoch": steps_per_epoch,
        "threads": threads,
    }
    for size in sizes if not report else []:
        row = graph_scale.measure_apart(
            graph_scale.ScalePoint(num_edges=size, seed=seed, **settings)
        )
        results.append({"kind": "scale", "settings": settings, "row": row})
        typer.echo(json.dumps(row))
    rows = {r["row"]["edges"]: r["row"] for r in results.read("scale") if r["settings"] == settings}
    ordered = [rows[size] for size in sorted(rows)]
    _show(
        "scale",
        f"D = {embedding_dim}, {steps_per_epoch} steps an epoch, {threads} thread(s)",
        ordered,
        output,
    )
    if len(ordered) > 1:
        _show("scale-slopes", "seconds ~ edges^exponent", graph_scale.slopes(ordered), output)


@app.command(name="scale-point", hidden=True)
def scale_point(point: str) -> None:
    """Measure one size in this process; the last line is the record as JSON. `scale` calls it."""
    size = graph_scale.ScalePoint(**json.loads(point))
    _use_threads(size.threads)
    typer.echo(json.dumps(graph_scale.measure_here(size)))


@app.command()
def work(
    datasets: Datasets,
    embedding_dim: Dim = 64,
    num_layers: Annotated[int, typer.Option(help="Propagation layers.")] = 2,
    steps_per_epoch: Annotated[int, typer.Option(min=1, help="Optimizer steps of an epoch.")] = 64,
    candidates: Annotated[
        int, typer.Option(help="Candidates of a micro-batch: negatives and its own positives.")
    ] = 2048,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Count FLOP and bytes of a worker in a step, from the actual row blocks.

    The table has both modes, at W = 1, 2, 4 and 8 workers.
    """
    for uri in datasets:
        data = read_data(uri)
        step = graph_work.Step(
            embedding_dim, num_layers, data.train.shape[1] // steps_per_epoch, candidates
        )
        rows = graph_work.count_work(data.train, data.num_users, data.num_items, step)
        _show(
            f"work-{data.name}",
            f"{data.name}, one step of {step.batch_size} interactions, the busiest worker",
            rows,
            output,
        )


@app.command()
def bandwidth(
    datasets: Annotated[
        list[str] | None, typer.Argument(help="URIs of dataset artifacts; without, only --edges.")
    ] = None,
    edges: Annotated[
        int, typer.Option(help="Edges of a synthetic graph that fits no cache; 0 leaves it out.")
    ] = 3_000_000,
    embedding_dim: Dim = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions; the best one counts.")] = 5,
    threads: Threads = 1,
    seed: Seed = 0,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Measure nonzeros and bytes a second of a propagation layer.

    STREAM and plain gathers on this machine stand beside them.
    """
    _use_threads(threads)
    graphs = {
        data.name: (data.train, data.num_users, data.num_items)
        for data in map(read_data, datasets or [])
    }
    if edges:
        graphs[f"power law, {edges} edges"] = power_law_edges(edges, seed)
    rows = [
        {"graph": name, **row}
        for name, graph in graphs.items()
        for row in graph_bandwidth.measure(*graph, embedding_dim, repeats)
    ]
    _show("bandwidth", f"D = {embedding_dim}, {threads} thread(s), best of {repeats}", rows, output)


def _run(name: str, data: BenchmarkData, budget: Budget, results: Results) -> None:
    method, evaluate = METHODS[name], Evaluator(data)
    dim = data.num_items if name == "ease" else budget.embedding_dim  # its model is items x items
    run = results.next_run(
        data.name, name, dim, method.carries_on and budget.checkpoint(data).exists()
    )
    for snapshot in method.run(data, budget):
        record = point(
            data, name, run, dim, snapshot, evaluate(snapshot.scores), settings_of(name, budget)
        )
        results.append(record)
        typer.echo(
            f"{data.name} {name} D={dim} epoch {snapshot.epoch} {snapshot.seconds:.1f} s "
            f"{record['validation']} {record['test']}"
        )


def _time_original(data: BenchmarkData, budget: Budget, results: Results, num_batches: int) -> None:
    timing = time_original(data, **budget.common, num_batches=num_batches)
    results.append(
        {
            "kind": "epoch_time",
            "dataset": data.name,
            "embedding_dim": budget.embedding_dim,
            **timing,
        }
    )
    typer.echo(f"{data.name} {RECIPE_ORIGINAL} D={budget.embedding_dim} {timing}")


def _report(results: Results) -> None:
    found = Report.of(results)
    _show("quality", "best epoch of each method by validation recall", found.rows(), results.folder)
    _show(
        "time-to-quality",
        "seconds to each value that the public recipe reached",
        found.speedups(),
        results.folder,
    )
    for sentence in found.status():
        typer.echo(sentence)
    if found.curves:
        plot(found, results.folder / "quality.png")


def _show(name: str, title: str, rows: list[dict[str, Any]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    (folder / f"{name}.md").write_text(f"{title}\n\n{markdown(rows)}")
    typer.echo(f"\n{title}\n\n{markdown(rows)}")


def _use_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    threadpool_limits(threads)


if __name__ == "__main__":
    app()
