"""Adapter training side by side: `python -m benchmarks.train run DATASET`, from the root.

Each contestant runs in processes of its own, on the same pairs, frozen model, adapters, dtype, loss
and cores, with the vectors of the graph beside the dataset. A round runs all of them one after the
other, and ratios are taken within a round. With several cores the plain loop and the Trainer are
one process with a thread for each core; ours is a worker with one thread for each core, and the
workers share each step's batch.

\b
  plain    as the public code trains: a row a pass, an optimizer step for each row
  trainer  Hugging Face's Trainer, batches grouped by length
  ours     the parts of xrec's recipe, without Ray and DeepSpeed
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Annotated, Any, cast

import torch.distributed as dist
import typer

from benchmarks.processes import measured
from benchmarks.report import (
    BENCHMARKS,
    LLM,
    SMOLLM2,
    Contestants,
    Device,
    Dtype,
    Output,
    Record,
    Rounds,
    command_line,
    known,
    peak_gib,
    summary,
    take_turns,
    write_tables,
)
from benchmarks.train_contestants import CONTESTANTS, OURS, PLAIN, TRAINER, Contest, prepare

app = command_line(__doc__)

FIRST, LATER = "first epoch: pairs a second", "later epochs: pairs a second"


@app.command()
def run(
    dataset: Annotated[str, typer.Argument(help="URI of a dataset artifact, beside its graph.")],
    contestant: Contestants = None,
    llm: LLM = SMOLLM2,
    num_pairs: Annotated[
        int, typer.Option(min=1, help="Training pairs of an epoch; a multiple of the batch size.")
    ] = 64,
    num_epochs: Annotated[
        int, typer.Option(min=2, help="Epochs of ours; the others run one, since all are alike.")
    ] = 3,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pairs of a step of the Trainer and of ours.")
    ] = 8,
    rounds: Rounds = 2,
    dtype: Dtype = "bfloat16",
    device: Device = "cpu",
    cores: Annotated[int, typer.Option(min=1, help="Workers of ours, threads of the others.")] = 1,
    output: Output = BENCHMARKS / "train",
) -> None:
    """Print labelled pairs a second and peak memory of each contestant."""
    if batch_size % cores:
        raise typer.BadParameter(
            f"--batch-size is {batch_size}, --cores {cores}: ours shares a batch evenly among its "
            "workers; give a multiple"
        )
    contest = Contest(
        dataset, llm, num_pairs, 1, batch_size, cast("Any", dtype), cores, cast("Any", device)
    )
    longer = replace(contest, num_epochs=num_epochs)
    calls = {
        name: partial(_measure_apart, longer if name == OURS else contest, name)
        for name in known(contestant, list(CONTESTANTS), "contestant")
    }
    rows = take_turns("train", calls, rounds, output)
    write_tables(output, "train", {str(contest): summary(rows, LATER, [PLAIN, TRAINER])})


def _measure_apart(contest: Contest, name: str) -> Record:
    """Call `measure_here` in fresh processes, so that its peak memory is its own."""
    workers = ["torch.distributed.run", "--standalone", f"--nproc-per-node={contest.cores}", "-m"]
    is_shared = name == OURS and contest.cores > 1
    command = ["benchmarks.train", "one", json.dumps(asdict(contest)), name]
    return measured([*(workers if is_shared else []), *command])


@app.command(hidden=True)
def one(contest: str, contestant: str) -> None:
    """Run one worker of a contestant; the first one prints the record as JSON. `run` calls it."""
    if dist.is_torchelastic_launched():
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group("gloo")
    record = measure_here(Contest(**json.loads(contest)), contestant)
    if not dist.is_initialized() or dist.get_rank() == 0:
        typer.echo(json.dumps(record))
    if dist.is_initialized():
        dist.destroy_process_group()


def measure_here(contest: Contest, contestant: str) -> Record:
    """The speed of the first epoch and of the later ones, of all workers together."""
    setup = prepare(contest, num_threads=1 if contestant == OURS else contest.cores)
    epochs = list(CONTESTANTS[contestant](setup))
    num_left = 0 if contestant == PLAIN else len(setup.examples) % contest.batch_size
    num_pairs = len(setup.examples) - num_left
    num_tokens = sum(map(len, setup.examples)) * num_pairs / len(setup.examples)
    seconds = [_of_workers(epoch.seconds, max) for epoch in epochs]
    later = min(seconds[1:] or seconds)
    return {
        FIRST: num_pairs / seconds[0],
        LATER: num_pairs / later,
        "TFLOP/s": 4 * setup.model.num_parameters() * num_tokens / later / 1e12,
        "peak GiB": _of_workers(peak_gib(setup.model.device), sum),
        "loss": ", ".join(f"{_of_workers(epoch.loss, sum):.3f}" for epoch in epochs),
    }


def _of_workers(value: float, combine: Callable[[list[float]], float]) -> float:
    """What `combine` makes of all workers' values."""
    if not dist.is_initialized():
        return combine([value])
    values = [0.0] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return combine(values)


if __name__ == "__main__":
    app()
