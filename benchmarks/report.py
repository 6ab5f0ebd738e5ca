"""What all benchmarks share: results as JSON lines, medians of rounds, tables, and workspaces."""

import datetime
import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xrec.config.llm import LLMConfig
from xrec.config.shared import StorageConfig
from xrec.generate.loading import Sources

Record = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """The file results.jsonl of a folder, to which each run appends."""

    folder: Path

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self.folder / "results.jsonl"

    def append(self, record: Record) -> None:
        """Add a line, with date, machine and load."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(record | {"machine": machine()}) + "\n")

    def read(self, kind: str) -> list[Record]:
        """All records of a kind, in the order of writing."""
        if not self.path.exists():
            return []
        records = map(json.loads, self.path.read_text().splitlines())
        return [record for record in records if record["kind"] == kind]


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


def markdown(rows: Sequence[Record]) -> str:
    """`rows`, which have the same columns, as a Markdown table."""
    if not rows:
        return "nothing was run yet\n"
    cells = [[_cell(value) for value in row.values()] for row in rows]
    lines = [list(rows[0]), ["---"] * len(rows[0]), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_tables(
    folder: Path,
    name: str,
    tables: Mapping[str, Sequence[Record]],
    show: Callable[[Sequence[Record]], Sequence[Record]] = list,
) -> str:
    """Write the tables as `name`.json with the machine, and as `name`.md; returns the latter.

    show: makes the rows that are read of those that are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown = {title: markdown(show(rows)) for title, rows in tables.items() if rows}
    text = "\n".join(f"## {title}\n\n{table}" for title, table in shown.items())
    (folder / f"{name}.json").write_text(json.dumps({**tables, **machine()}, indent=1) + "\n")
    (folder / f"{name}.md").write_text(text)
    return text


def medians(rows: Sequence[Record]) -> Record:
    """The median of each number over the rounds; what else the first row has, as it is."""
    return {
        key: round(statistics.median(row[key] for row in rows), 3)
        if isinstance(value, int | float)
        else value
        for key, value in rows[0].items()
        if key != "round"
    }


def sources_of(workspace: str, llm: LLMConfig, adapter: str | None = None) -> Sources:
    """The artifacts of a workspace with the model `llm`, or with the adapter at another URI.

    Its artifact `aspects` is read only if the adapter's prompt asks for aspects.
    """
    return Sources(
        dataset=f"{workspace}/dataset",
        graph=f"{workspace}/graph",
        adapter=adapter or f"{workspace}/adapter",
        llm=llm,
        storage=StorageConfig(),
        aspects=f"{workspace}/aspects",
    )


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, float | int) and value >= 10_000 else str(value)
