"""Pairs a CPU second of each contestant, as bars."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def plot_rates(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the plot of the rows that have a rate."""
    from matplotlib.figure import Figure

    measured = [row for row in rows if row.get("pairs/CPU s")]
    figure = Figure(figsize=(7, 0.4 * len(measured) + 1), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(
        [row["contestant"] for row in measured], [row["pairs/CPU s"] for row in measured]
    )
    axes.bar_label(bars, padding=3)
    axes.invert_yaxis()
    axes.set_xlabel("pairs a CPU second")
    figure.savefig(path)
