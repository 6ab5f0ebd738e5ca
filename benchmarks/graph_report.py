"""The report on all methods: a table, the time to the public recipe's quality, and a plot."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.graph_data import NDCG, RECALL, K
from benchmarks.graph_recipe import NUM_EPOCHS, PATIENCE
from benchmarks.graph_results import Key, Record, Results, curves

RECIPE, RECIPE_ORIGINAL, OURS = "recipe", "recipe-original", "ours"


@dataclass(frozen=True)
class Report:
    """The results in a form to print and to draw.

    `epoch_times` are those of the original recipe, by dataset and dimension.
    """

    curves: dict[Key, list[Record]]
    epoch_times: dict[tuple[str, int], Record]

    @classmethod
    def of(cls, results: Results) -> "Report":
        """Return the report on all results so far."""
        times = {(r["dataset"], r["embedding_dim"]): r for r in results.read("epoch_time")}
        measured = curves(results.read("point"))
        extrapolated = {
            (d, RECIPE_ORIGINAL, n): _at_original_speed(measured[d, RECIPE, n], times[d, n])
            for d, n in times
            if (d, RECIPE, n) in measured
        }
        return cls(measured | extrapolated, times)

    def rows(self) -> list[Record]:
        """Return a row for each curve: its best epoch by validation recall, and its time.

        Within a dataset the best curve comes first.
        """
        rows = [_row(key, points) for key, points in self.curves.items()]
        return sorted(rows, key=lambda row: (row["dataset"], -row[f"validation {RECALL}"]))

    def speedups(self) -> list[Record]:
        """Return how much sooner `ours` reaches each value that the recipe reached.

        The seconds of the original recipe are extrapolated.
        """
        return [
            _speedup(
                level,
                self.curves[dataset, OURS, dim],
                self.curves.get((dataset, RECIPE_ORIGINAL, dim)),
            )
            for dataset, method, dim in sorted(self.curves)
            if method == RECIPE and (dataset, OURS, dim) in self.curves
            for level in _record_highs(self.curves[dataset, RECIPE, dim])
        ]

    def status(self) -> list[str]:
        """Return how far the recipe was run, a sentence for each curve."""
        return [
            _status(dataset, dim, points)
            for (dataset, method, dim), points in sorted(self.curves.items())
            if method == RECIPE
        ]


def markdown(rows: Sequence[Record]) -> str:
    """Return `rows`, which have the same columns, as a Markdown table."""
    if not rows:
        return "nothing was run yet\n"
    lines = [
        list(rows[0]),
        ["---"] * len(rows[0]),
        *([_cell(value) for value in row.values()] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plot(report: Report, path: Path) -> None:
    """Plot validation recall against seconds on a logarithmic axis, a panel for each dataset.

    Dashed lines are at extrapolated seconds.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    datasets = sorted({dataset for dataset, _, _ in report.curves})
    curves_drawn = sorted({(method, dim) for _, method, dim in report.curves})
    colors = {
        curve: f"C{number}" if number < 10 else pyplot.cm.Dark2(number - 10)
        for number, curve in enumerate(curves_drawn)
    }
    figure, panels = pyplot.subplots(
        1, len(datasets), figsize=(7 * len(datasets), 5), squeeze=False
    )
    for dataset, axes in zip(datasets, panels[0], strict=True):
        for (name, method, dim), points in sorted(report.curves.items()):
            if name == dataset:
                seconds, recall = (
                    [p["seconds"] for p in points],
                    [p["validation"][RECALL] for p in points],
                )
                style = "--" if method == RECIPE_ORIGINAL else "-"
                axes.plot(
                    seconds,
                    recall,
                    style,
                    marker="o",
                    markersize=4,
                    color=colors[method, dim],
                    label=f"{method}, D = {dim}",
                )
        axes.set(
            xscale="log",
            xlabel="seconds, one thread, evaluation left out",
            ylabel=f"validation Recall@{K}",
            title=dataset,
        )
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _at_original_speed(points: list[Record], timing: Record) -> list[Record]:
    """Return the recipe's points at the seconds of its original form.

    The optimization is the same, and so is the quality after each epoch.
    """
    return [
        p
        | {
            "method": RECIPE_ORIGINAL,
            "seconds": p["epoch"] * timing["seconds_per_epoch"],
            "cpu_seconds": p["epoch"] * timing["cpu_seconds_per_epoch"],
        }
        for p in points
    ]


def _row(key: Key, points: list[Record]) -> Record:
    best = max(points, key=lambda p: p["validation"][RECALL])
    scores = {
        f"{split} {metric}": round(best[split][metric], 4)
        for split in ("validation", "test")
        for metric in (RECALL, NDCG)
    }
    last = points[-1]
    epoch_seconds = round(last["seconds"] / last["epoch"], 2) if last["epoch"] else None
    return {
        **dict(zip(("dataset", "method", "D"), key, strict=True)),
        **scores,
        "epoch": best["epoch"],
        "seconds": round(best["seconds"], 1),
        "CPU seconds": None if best["cpu_seconds"] is None else round(best["cpu_seconds"], 1),
        "seconds an epoch": epoch_seconds,
        "seconds are": "extrapolated" if key[1] == RECIPE_ORIGINAL else "measured",
    }


def _record_highs(points: list[Record]) -> list[Record]:
    """Return the points that are better than all before them."""
    highs: list[Record] = []
    for p in points:
        if not highs or p["validation"][RECALL] > highs[-1]["validation"][RECALL]:
            highs.append(p)
    return highs


def _speedup(level: Record, ours: list[Record], original: list[Record] | None) -> Record:
    reached = next(
        (p for p in ours if p["validation"][RECALL] >= level["validation"][RECALL]), None
    )
    slow = next((p for p in original or () if p["epoch"] == level["epoch"]), None)
    return {
        "dataset": level["dataset"],
        "D": level["embedding_dim"],
        f"validation {RECALL}": round(level["validation"][RECALL], 4),
        "recipe's epoch": level["epoch"],
        "recipe, fused: seconds": round(level["seconds"], 1),
        "recipe, original: seconds": round(slow["seconds"], 1) if slow else None,
        "ours: seconds": round(reached["seconds"], 2) if reached else None,
        "original / ours": round(slow["seconds"] / reached["seconds"])
        if slow and reached
        else None,
    }


def _status(dataset: str, dim: int, points: list[Record]) -> str:
    best, last = max(points, key=lambda p: p["validation"][RECALL]), points[-1]
    ended = last["epoch"] >= NUM_EPOCHS or last["epoch"] - best["epoch"] >= PATIENCE
    state = (
        "its stopping rule holds: this is its final value"
        if ended
        else "its stopping rule does not hold yet: its final value may be higher"
    )
    best_value = (
        f"best validation {RECALL} {best['validation'][RECALL]:.4f} at epoch {best['epoch']}"
    )
    run = f"the recipe was run for {last['epoch']} epochs"
    return f"{dataset}, D = {dim}: {run}, {best_value}; {state}"


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, float | int) and value >= 10_000 else str(value)
