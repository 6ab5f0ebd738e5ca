"""The result of a comparison: every entry's figures, and what they cost.

All figures are of the same pairs. Differences are to the first entry, pair by pair.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from xrec.config import CompareConfig
from xrec.data import Dataset
from xrec.evaluate.measure import Metric
from xrec.lab.compare.entries import Entry, is_seeded
from xrec.lab.compare.figures import LEAST_SEEDS, MetricRow, Run, metric_rows
from xrec.lab.compare.texts import EntryTexts
from xrec.lab.measures.measures import table_metrics

COVERAGE = "coverage"

# `table.parquet`: a row an entry and metric. `by_seed` has a value for each seed.
TABLE = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("entry", "metric")),
        pa.field("value", pa.float64(), nullable=False),
        *(pa.field(name, pa.float64()) for name in ("low", "high", "seed_spread")),
        *(pa.field(f"difference{end}", pa.float64()) for end in ("", "_low", "_high")),
        pa.field("by_seed", pa.list_(pa.field("element", pa.float64(), nullable=False))),
        pa.field("num_pairs", pa.int64(), nullable=False),
    ]
)

COST_INFOS = (
    Metric("training_seconds", "Training, s", 0, "lower"),
    Metric("num_trained_parameters", "Trained parameters", 0, ""),
    Metric("pairs_per_second", "Texts a second", 1),
)
_NO_ASPECTS = (
    "There are no metrics of aspects: the dataset has no tables of them; make it of annotations "
    "(docs/annotate.md), or set prepare.aspects_from (docs/data.md)."
)


@dataclass(frozen=True)
class Figure:
    """A metric of an entry; `own` says which.

    difference: to the first entry, on the same pairs; None for itself and for costs.
    """

    own: MetricRow
    difference: MetricRow | None = None

    @property
    def seed_spread(self) -> float | None:
        """The standard deviation over seeds; None for one seed."""
        values = self.own.by_seed
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    @property
    def is_clear(self) -> bool:
        """Whether the interval of the difference is clear of zero."""
        found = self.difference
        if found is None or found.low is None or found.high is None:
            return False
        return found.low > 0 or found.high < 0


@dataclass(frozen=True)
class Result:
    """The figures of each entry by metric, in order.

    infos: of the metrics that are there, in order, coverage first and costs last.
    num_seeds: how many seeds each entry has; 0 where the seed changes nothing.
    notes: what else a reader of the table must know.
    """

    figures: Mapping[str, Mapping[str, Figure]]
    infos: Mapping[str, Metric]
    num_seeds: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @property
    def entries(self) -> list[str]:
        """The names of the entries and rankers, the one first that others are compared with."""
        return list(self.figures)

    def has_seeds(self, entry: str) -> bool:
        """Whether there are seeds enough to tell it from the first entry.

        Entries whose texts do not depend on the seed have no seeds to lack.
        """
        seeds = [self.num_seeds[each] for each in (self.entries[0], entry)]
        return all(each >= LEAST_SEEDS for each in seeds if each)

    @property
    def without_verdict(self) -> str:
        """Which entries no difference is marked of, and why; "" if there are none."""
        lacking = [name for name in self.entries[1:] if not self.has_seeds(name)]
        if not lacking:
            return ""
        return (
            f"No verdict on {', '.join(lacking)}: it takes {LEAST_SEEDS} seeds of each of "
            "the two that is trained."
        )


def result_of(
    config: CompareConfig,
    dataset: Dataset,
    made: Mapping[Entry, EntryTexts],
    scored: Mapping[Entry, Run],
    notes: tuple[str, ...] = (),
    rankings: Mapping[str, pa.Table] | None = None,
) -> Result:
    """The result of all entries, with what else a reader must know.

    rankings: metrics of rankers, as a scorer's tables, listed below the entries.
    """
    runs: dict[str, list[Run]] = {name: [] for name in config.entries}
    for entry, run in scored.items():
        runs[entry.name].append(run)
    ranked = {name: [Run(table)] for name, table in (rankings or {}).items()}
    figures = _figures(runs | ranked)
    for name in config.entries:
        figures[name] |= _cost_figures([made[entry].costs for entry in made if entry.name == name])
    infos = table_metrics(config, dataset)
    infos |= {info.name: info for info in COST_INFOS}
    there = {metric for of_entry in figures.values() for metric in of_entry}
    ordered = {name: info for name, info in infos.items() if name in there}
    return Result(
        figures,
        {COVERAGE: ordered.pop(COVERAGE), **ordered},
        {name: _num_seeds(config, name) for name in config.entries} | dict.fromkeys(ranked, 0),
        ((_NO_ASPECTS, *notes) if dataset.aspects is None else notes),
    )


def _num_seeds(config: CompareConfig, name: str) -> int:
    """Return how many seeds the texts of an entry were made with, or 0 if they depend on none.

    Texts from elsewhere count as the result of one training.
    """
    if name in config.texts:
        return 1
    return len(config.seeds) if is_seeded(config, name) else 0


def _figures(runs: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, Figure]]:
    first, found = next(iter(runs.values())), {}
    for name, of_name in runs.items():
        rows = [] if of_name is first else metric_rows(of_name, first)
        differences = {row.metric: row for row in rows}
        own = metric_rows(of_name)
        found[name] = {row.metric: Figure(row, differences.get(row.metric)) for row in own}
    return found


def _cost_figures(costs: Sequence[Mapping[str, float]]) -> dict[str, Figure]:
    """A cost that a seed does not have is left out."""
    found = {}
    for info in COST_INFOS:
        values = tuple(float(each[info.name]) for each in costs if info.name in each)
        if values:
            row = MetricRow(info.name, float(np.mean(values)), None, None, values, 0)
            found[info.name] = Figure(row)
    return found


def result_table(result: Result) -> pa.Table:
    """All figures in the schema TABLE."""
    figures = result.figures.items()
    rows = [_row(name, figure) for name, of_entry in figures for figure in of_entry.values()]
    return pa.Table.from_pylist(rows, TABLE)


def _row(entry: str, figure: Figure) -> dict[str, object]:
    own, difference = figure.own, figure.difference
    row: dict[str, object] = {**vars(own), "entry": entry, "seed_spread": figure.seed_spread}
    if difference is not None:
        row["difference"] = difference.value
        row |= {"difference_low": difference.low, "difference_high": difference.high}
    return row
