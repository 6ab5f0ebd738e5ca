"""A bar chart as SVG, for reports: it has no script, and its texts keep their size on a phone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from xrec.progress import short

_ROW, _TICKS = 38, 4


@dataclass(frozen=True)
class Bar:
    """A value of at least 0 with its label; `bound` is marked by a line across the bar."""

    label: str
    value: float
    bound: float | None = None


def bar_chart(title: str, unit: str, bars: Sequence[Bar], most: float | None = None) -> Markup:
    """Return a figure with a horizontal bar for each value, on an axis from 0 to `most`.

    Without `most`, the axis ends at the next 1, 2 or 5 times a power of ten. `title` and the labels
    are escaped. Returns nothing if there are no bars.
    """
    if not bars:
        return Markup()
    end = most or _rounded_up(max(max(bar.value, bar.bound or 0) for bar in bars))
    bottom = _ROW * len(bars) + 4
    parts = [
        Markup('<line class="grid" x1="{0}%" x2="{0}%" y1="0" y2="{1}"/>').format(
            100 * tick / _TICKS, bottom
        )
        for tick in range(_TICKS + 1)
    ]
    for index, bar in enumerate(bars):
        top = _ROW * index
        parts.append(
            Markup(
                '<text y="{0}">{1}</text><text class="value" x="100%" y="{0}">{2}</text>'
                '<rect y="{3}" width="{4:.2f}%" height="10" rx="2"/>'
            ).format(top + 16, bar.label, short(bar.value), top + 22, _percent(bar.value, end))
        )
        if bar.bound is not None:
            line = '<line class="bound" x1="{0:.2f}%" x2="{0:.2f}%" y1="{1}" y2="{2}"/>'
            parts.append(Markup(line).format(_percent(bar.bound, end), top + 18, top + 36))
    anchors = ("start", *["middle"] * (_TICKS - 1), "end")
    parts += [
        Markup('<text class="tick" x="{}%" y="{}" text-anchor="{}">{}</text>').format(
            100 * tick / _TICKS, bottom + 16, anchor, short(end * tick / _TICKS)
        )
        for tick, anchor in enumerate(anchors)
    ]
    return Markup(
        '<figure class="chart"><figcaption>{0} <span>({1})</span></figcaption>'
        '<svg role="img" aria-label="{0}" width="100%" height="{2}">{3}</svg></figure>'
    ).format(title, unit, bottom + 22, Markup().join(parts))


def _percent(value: float, end: float) -> float:
    return 100 * min(max(value / end, 0), 1)


def _rounded_up(value: float) -> float:
    if value <= 0:
        return 1.0
    power = float(10 ** math.floor(math.log10(value)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value)
