"""Figures of contestants, with intervals: their own, and differences of two.

A pair's or couple's figure is its mean over the seeds that have it. Intervals are 95 %, clustered
by user for figures of pairs, by item for those of couples. Differences are paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.report import Record, Values
from xrec.evaluate.intervals import mean_interval


@dataclass(frozen=True, eq=False)
class Measure:
    """One figure of each seed: (S, N) values, NaN where there is none, with groups (N,) to draw."""

    values: Values
    groups: Sequence[str]

    @property
    def by_seed(self) -> list[float | None]:
        """The mean of each seed, None where it has no value."""
        return [_mean(seed) for seed in self.values]

    @property
    def of_each(self) -> Values:
        """The mean over the seeds that have a value, (N,); NaN where none has."""
        counts = (~np.isnan(self.values)).sum(axis=0)
        sums = np.nansum(self.values, axis=0)
        mean = np.full(len(sums), np.nan)
        np.divide(sums, counts, out=mean, where=counts > 0)
        return mean

    def minus(self, other: "Measure") -> "Measure":
        """Return the difference where both have a value, seed by seed as far as there are as many.

        Both are of the same pairs.
        """
        assert self.groups == other.groups
        if len(self.values) == len(other.values) or len(other.values) == 1:
            return Measure(self.values - other.values, self.groups)
        return Measure((self.of_each - other.of_each)[None], self.groups)

    def record(self) -> Record:
        """Return value, interval, number of values and each seed's, as plain values."""
        found = self.of_each
        there = ~np.isnan(found)
        if not there.any():
            return {"value": None, "low": None, "high": None, "count": 0, "by_seed": []}
        groups = [self.groups[place] for place in np.flatnonzero(there)]
        estimate = mean_interval(found[there], groups)
        return {
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "count": int(there.sum()),
            "by_seed": self.by_seed,
        }


Measures = Mapping[str, Measure]
"""The measures of one contestant by name."""


def figures(contestants: Mapping[str, Measures]) -> list[Record]:
    """Return a row for each contestant and measure."""
    return [
        {"contestant": name, "measure": measure, **found.record()}
        for name, measures in contestants.items()
        for measure, found in measures.items()
    ]


def differences(contestants: Mapping[str, Measures], against: Sequence[str]) -> list[Record]:
    """Return a row for each contestant, other contestant of `against`, and measure of both."""
    return [
        {
            "contestant": f"{name} minus {other}",
            "measure": measure,
            **found.minus(of_other).record(),
        }
        for other in against
        for name, measures in contestants.items()
        if name != other
        for measure, found in measures.items()
        if (of_other := contestants[other].get(measure)) is not None
    ]


def wide(rows: Sequence[Record]) -> list[Record]:
    """Return a row for each contestant of `rows`, with a column for each measure, to be read.

    `count` is that of the first measure: how many pairs, or couples, have it.
    """
    columns = list(dict.fromkeys(row["measure"] for row in rows))
    shown = {(row["contestant"], row["measure"]): _shown(row) for row in rows}
    counts = {row["contestant"]: row["count"] for row in reversed(rows)}
    return [
        {
            "contestant": name,
            "count": counts[name],
            **{column: shown.get((name, column), "") for column in columns},
        }
        for name in dict.fromkeys(row["contestant"] for row in rows)
    ]


def _shown(row: Record) -> str:
    """Return the value, its interval, and those of the seeds if there are several."""
    if row["value"] is None:
        return ""
    text = _number(row["value"])
    if row["low"] is not None:
        text += f" ({_number(row['low'])} to {_number(row['high'])})"
    seeds = [value for value in row["by_seed"] if value is not None]
    return text + (f"; {', '.join(map(_number, seeds))}" if len(seeds) > 1 else "")


def _number(value: float) -> str:
    return f"{round(value, 4) + 0.0:.4f}"  # no -0.0000


def _mean(values: Values) -> float | None:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else None
