"""How time and memory grow with the graph.

Set-up, spectral start and one epoch are measured on synthetic graphs, each in its own process.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.graph_data import Stopwatch
from benchmarks.graph_ours import Graph, Trainer
from benchmarks.graph_synthetic import power_law_edges
from xrec.config.graph import GraphModelConfig, GraphTrainingConfig, PretrainGraphConfig

Record = dict[str, Any]
BOUND = 1.1
PHASES = ("set-up", "spectral start", "epoch", "all")


@dataclass(frozen=True)
class ScalePoint:
    """A size to measure."""

    num_edges: int
    embedding_dim: int
    steps_per_epoch: int
    threads: int
    seed: int


def measure_here(point: ScalePoint) -> Record:
    """Measure in this process: the seconds of each phase, and the process's peak memory.

    Making the graph is not counted.
    """
    edges, num_users, num_items = power_law_edges(point.num_edges, point.seed)
    generated = _peak_gib()
    config = PretrainGraphConfig(
        workspace="",
        model=GraphModelConfig(embedding_dim=point.embedding_dim),
        training=GraphTrainingConfig(
            steps_per_epoch=point.steps_per_epoch, num_epochs=1, seed=point.seed
        ),
    )
    watch, seconds = Stopwatch(), []
    with watch.running():
        graph = Graph.of(edges, num_users, num_items)
    seconds.append(watch.seconds)
    with watch.running():
        start = graph.start(config)
    seconds.append(watch.seconds)
    with watch.running():
        loss = Trainer(graph, start, config).epoch(1)
    seconds.append(watch.seconds)
    phases = dict(zip(PHASES, [*np.diff([0.0, *seconds]).tolist(), watch.seconds], strict=True))
    return {
        "edges": point.num_edges,
        "nodes": num_users + num_items,
        **{f"{name}: seconds": round(value, 3) for name, value in phases.items()},
        "CPU seconds": round(watch.cpu_seconds, 3),
        "peak GiB": round(_peak_gib(), 2),
        "peak GiB before": round(generated, 2),
        "loss": round(loss, 4),
    }


def measure_apart(point: ScalePoint) -> Record:
    """Call `measure_here` in a fresh process, so that its peak memory is its own."""
    command = [sys.executable, "-m", "benchmarks.graph", "scale-point", json.dumps(asdict(point))]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    record: Record = json.loads(output.splitlines()[-1])
    return record


def slopes(rows: Sequence[Record]) -> list[Record]:
    """Return for each phase the exponent b of seconds ~ edges^b, and its bound.

    The exponent is the slope of a straight line in logarithms through all `rows`.
    """
    sizes = np.log([row["edges"] for row in rows])
    found = []
    for name in (*(f"{phase}: seconds" for phase in PHASES), "CPU seconds"):
        slope = float(np.polyfit(sizes, np.log([max(row[name], 1e-3) for row in rows]), 1)[0])
        found.append(
            {
                "seconds of": name.removesuffix(": seconds"),
                "exponent": round(slope, 3),
                "bound": BOUND,
                "within": slope <= BOUND,
            }
        )
    return found


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
