"""Results as JSON lines, a line for each point of a method.

They are appended, so that methods can be run one by one and continued.
"""

import datetime
import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.graph_data import BenchmarkData, Snapshot

Record = dict[str, Any]
Key = tuple[str, str, int]  # dataset, method, embedding_dim


@dataclass(frozen=True)
class Results:
    """The file results.jsonl of the folder `folder`."""

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
        """Return all records of a kind, in the order of writing."""
        if not self.path.exists():
            return []
        return [
            record
            for record in map(json.loads, self.path.read_text().splitlines())
            if record["kind"] == kind
        ]

    def next_run(self, dataset: str, method: str, embedding_dim: int, carry_on: bool) -> int:
        """Return the number of the run that starts now, or the last one's if it is continued."""
        runs = [
            r["run"] for r in self.read("point") if key_of(r) == (dataset, method, embedding_dim)
        ]
        return max(runs, default=0) + (0 if carry_on and runs else 1)


def machine() -> Record:
    """Return what one must know to judge a time.

    This is the date, the processor, cores and threads, and how busy the machine is.
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def point(
    data: BenchmarkData,
    method: str,
    run: int,
    embedding_dim: int,
    snapshot: Snapshot,
    metrics: Record,
    settings: Record,
) -> Record:
    """Return a record of kind `point`: how well `method` ranks after the snapshot's seconds."""
    return {
        "kind": "point",
        "dataset": data.name,
        "fingerprint": data.fingerprint,
        "method": method,
        "embedding_dim": embedding_dim,
        "run": run,
        "epoch": snapshot.epoch,
        "seconds": round(snapshot.seconds, 3),
        "cpu_seconds": None if snapshot.cpu_seconds is None else round(snapshot.cpu_seconds, 3),
        **metrics,
        "settings": settings,
    }


def key_of(record: Record) -> Key:
    """Return what identifies the record's curve."""
    return record["dataset"], record["method"], record["embedding_dim"]


def curves(points: Iterable[Record]) -> dict[Key, list[Record]]:
    """Return each method's points of its last run, by epoch.

    If a point was written twice, the later one counts.
    """
    by_key: dict[Key, dict[tuple[int, int], Record]] = {}
    for record in points:
        by_key.setdefault(key_of(record), {})[record["run"], record["epoch"]] = record
    return {key: _last_run(found) for key, found in by_key.items()}


def _last_run(points: dict[tuple[int, int], Record]) -> list[Record]:
    last = max(run for run, _ in points)
    return [points[key] for key in sorted(points) if key[0] == last]


def _processor() -> str:
    for line in (
        Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ()
    ):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
