"""The report's plots, as SVG to stand inside the page.

Colours are the page's CSS variables and texts stay texts in the page's font, so the plots follow
light and dark. Equal data give equal SVG. No pyplot: no global state, no backend to choose.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Plot:
    """A figure of a page: `svg` is trusted markup that is made here."""

    title: str
    caption: str
    svg: Markup


History = Sequence[Mapping[str, Any]]

# Stand-ins that matplotlib can parse, and the variables of report.css that take their places.
_INK, _FAINT, _FIRST, _SECOND = "#010203", "#010204", "#010205", "#010206"
_VARIABLES = {
    _INK: "var(--muted)",
    _FAINT: "var(--line)",
    _FIRST: "var(--first)",
    _SECOND: "var(--second)",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 8.5,
    "axes.labelsize": "medium",
    "xtick.labelsize": "medium",
    "ytick.labelsize": "medium",
    "legend.fontsize": "medium",
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "text.color": _INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
}
_MAX_POINTS = 2000  # of a scatter plot: more only make the page heavy


def history_plot(history: History, names: Sequence[str], y_label: str) -> str:
    """A line for each of two `names` over the history's `epoch`, or `step` if it has no epoch.

    Missing values are left out.
    """
    x_name = "epoch" if all("epoch" in row for row in history) else "step"
    with rc_context(_STYLE):
        figure, axes = _canvas(x_name, y_label)
        for name, color in zip(names, (_FIRST, _SECOND), strict=True):
            points = [(row[x_name], row[name]) for row in history if row.get(name) is not None]
            axes.plot(
                *np.array(points, dtype=np.float64).reshape(-1, 2).T,
                marker="o",
                color=color,
                label=name.replace("_", " "),
            )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend_above(axes)
        return _svg(figure)


def length_plot(generated: ArrayLike, reference: ArrayLike) -> str:
    """Histograms of the texts' lengths in words, on the same bins."""
    lengths = [np.asarray(generated), np.asarray(reference)]
    longest = int(max(values.max() for values in lengths))
    width = longest // 30 + 1  # whole words, about 30 bins at most
    bins = [edge - 0.5 for edge in range(0, longest + 2 * width, width)]
    with rc_context(_STYLE):
        figure, axes = _canvas("words", "texts")
        axes.hist(lengths[0], bins=bins, color=_FIRST, alpha=0.5, label="generated")
        axes.hist(
            lengths[1], bins=bins, color=_SECOND, histtype="step", linewidth=1.6, label="reference"
        )
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=False, axis="x")
        _legend_above(axes)
        return _svg(figure)


def nll_plot(own: ArrayLike, shuffled: ArrayLike) -> str:
    """A dot for each pair: NLL with another user's vector over NLL with the own one.

    Above the diagonal, the own one is better.
    """
    points = np.stack([np.asarray(own, dtype=np.float64), np.asarray(shuffled, dtype=np.float64)])
    points = points[:, :: -(-points.shape[1] // _MAX_POINTS)]
    margin = 0.04 * (points.max() - points.min()) or 0.1
    limits = (points.min() - margin, points.max() + margin)
    with rc_context(_STYLE):
        figure, axes = _canvas("NLL, own vector", "NLL, another user's vector")
        axes.plot(limits, limits, color=_INK, linewidth=0.8)
        axes.scatter(points[0], points[1], s=12, color=_FIRST, alpha=0.55, linewidths=0)
        axes.set(xlim=limits, ylim=limits)
        axes.text(0.03, 0.97, "own vector fits better", transform=axes.transAxes, va="top")
        axes.text(0.97, 0.03, "another's fits better", transform=axes.transAxes, ha="right")
        return _svg(figure)


def _canvas(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.0, 2.75), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x_label, ylabel=y_label)
    return figure, axes


def _legend_above(axes: Axes) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, handlelength=1.2, columnspacing=1.4
    )


def _svg(figure: Figure) -> str:
    """The figure as an <svg> element without metadata that can stand beside others on a page."""
    stream = io.StringIO()
    nothing = dict.fromkeys(["Creator", "Date", "Format", "Type"])
    with rc_context({"svg.hashsalt": "xrec"}):
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    svg = stream.getvalue()
    svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg[svg.index("<svg") :])
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    return svg
