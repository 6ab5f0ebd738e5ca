"""Figures of entries from their runs, one a seed: means, intervals, differences.

All runs are of the same pairs in the same order. A figure of pairs has an interval over users, and
over seeds if there are several; a figure of a corpus has the values of the seeds only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from xrec.evaluate.intervals import Estimate, Values, difference_interval, mean_interval
from xrec.lab.measures.measure import PAIR_COLUMNS

LEAST_SEEDS = 3
"""Trainings that differ in the seed alone were seen to lie as far apart as methods do."""


@dataclass(frozen=True, eq=False)
class Run:
    """One seed of an entry: the table of `score_table`, and the figures of its corpus."""

    table: pa.Table
    corpus: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricRow:
    """A figure: `by_seed` are the values of its seeds, `num_pairs` those that have the metric.

    low, high: the 95 % interval, None where there is none.
    """

    metric: str
    value: float
    low: float | None
    high: float | None
    by_seed: tuple[float, ...]
    num_pairs: int


def metric_rows(runs: Sequence[Run]) -> list[MetricRow]:
    """The figures of one entry, those of its corpus last.

    A metric that a run lacks, or that no pair has in all seeds, is left out.
    """
    users, found = _users(runs), []
    for metric in _shared_metrics(runs):
        values = _stacked(runs, metric)
        there = np.isfinite(values).all(axis=0)
        if there.any():
            found.append(_row(metric, mean_interval(values, users), values[:, there]))
    return found + _of_corpora(runs)


def difference_rows(runs: Sequence[Run], first: Sequence[Run]) -> list[MetricRow]:
    """The figures of an entry minus those of the first one, of the metrics that both have.

    A difference is of the same pair. `by_seed` are the means of the entry's seeds minus the mean of
    all seeds of the first.
    """
    users, found = _users([*runs, *first]), []
    for metric in _shared_metrics([*runs, *first]):
        values, others = (_stacked(side, metric) for side in (runs, first))
        there = np.isfinite(np.concatenate([values, others])).all(axis=0)
        if there.any():
            estimate = difference_interval(values, others, users)
            level = others[:, there].mean(axis=0)
            found.append(_row(metric, estimate, values[:, there] - level))
    levels = {row.metric: row.value for row in _of_corpora(first)}
    return found + [
        replace(
            row,
            value=row.value - levels[row.metric],
            by_seed=tuple(value - levels[row.metric] for value in row.by_seed),
        )
        for row in _of_corpora(runs)
        if row.metric in levels
    ]


def _row(metric: str, estimate: Estimate, values: Values) -> MetricRow:
    by_seed = tuple(values.mean(axis=1).tolist())
    interval = estimate.low, estimate.high
    return MetricRow(metric, estimate.value, *interval, by_seed, values.shape[1])


def _of_corpora(runs: Sequence[Run]) -> list[MetricRow]:
    """Of the metrics that each run's corpus has."""
    num_pairs = runs[0].table.num_rows
    names = [name for name in runs[0].corpus if all(name in run.corpus for run in runs)]
    by_seed = {name: tuple(run.corpus[name] for run in runs) for name in names}
    return [
        MetricRow(name, float(np.mean(values)), None, None, values, num_pairs)
        for name, values in by_seed.items()
    ]


def _shared_metrics(runs: Sequence[Run]) -> list[str]:
    """The metrics of pairs that all runs have: one may lack a model that others found."""
    columns = [set(run.table.column_names) - set(PAIR_COLUMNS) for run in runs]
    return [name for name in runs[0].table.column_names if all(name in each for each in columns)]


def _stacked(runs: Sequence[Run], metric: str) -> Values:
    """(S, N), NaN where the metric is not defined."""
    return np.stack([run.table[metric].to_numpy().astype(np.float64) for run in runs])


def _users(runs: Sequence[Run]) -> list[str]:
    """The user of each pair, (N,); all runs are of the same pairs."""
    ids = [run.table.select(PAIR_COLUMNS[:2]) for run in runs]
    assert all(other.equals(ids[0]) for other in ids[1:])
    users: list[str] = ids[0]["user_id"].to_pylist()
    return users
