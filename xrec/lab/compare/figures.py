"""Figures of entries from their runs, one a seed: means, intervals, differences.

All runs are of the same pairs in the same order. A figure of pairs has an interval over users, and
over seeds if there are several; a figure of a corpus has the values of the seeds only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from xrec.evaluate.intervals import Estimate, Values, difference_interval, mean_interval
from xrec.lab.measures.measures import PAIR_COLUMNS

LEAST_SEEDS = 3
"""Trainings that differ in the seed alone were seen to lie as far apart as methods do."""


@dataclass(frozen=True, eq=False)
class Run:
    """One seed of an entry: a scorer's table, and the metrics of all texts together."""

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


def metric_rows(runs: Sequence[Run], minus: Sequence[Run] = ()) -> list[MetricRow]:
    """The figures of one entry, those of its corpus last; minus those of another one if given.

    A metric that a run lacks, or that no pair has in all seeds, is left out. A difference is of the
    same pair. Its `by_seed` are those of the entry minus the mean over all seeds of the other.
    """
    sides = [side for side in (runs, minus) if side]
    users, found = _users([*runs, *minus]), []
    for metric in _shared_metrics([*runs, *minus]):
        values = [_stacked(side, metric) for side in sides]
        there = np.isfinite(np.concatenate(values)).all(axis=0)
        if there.any():
            if minus:
                estimate = difference_interval(values[0], values[1], users)
            else:
                estimate = mean_interval(values[0], users)
            of_pairs = [side[:, there] for side in values]
            by_seed = of_pairs[0] - (of_pairs[1].mean(axis=0) if minus else 0)
            found.append(_row(metric, estimate, by_seed.mean(axis=1), by_seed.shape[1]))
    names = [name for name in runs[0].corpus if all(name in run.corpus for run in (*runs, *minus))]
    for name in names:
        level = float(np.mean([run.corpus[name] for run in minus])) if minus else 0.0
        by_seed = np.array([run.corpus[name] for run in runs]) - level
        estimate = Estimate(float(by_seed.mean()))
        found.append(_row(name, estimate, by_seed, runs[0].table.num_rows))
    return found


def _row(metric: str, estimate: Estimate, by_seed: Values, num_pairs: int) -> MetricRow:
    interval = estimate.low, estimate.high
    return MetricRow(metric, estimate.value, *interval, tuple(by_seed.tolist()), num_pairs)


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
