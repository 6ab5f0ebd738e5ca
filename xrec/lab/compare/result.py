"""The result of a comparison: every contestant's figures, overall and by group, and what they cost.

All figures are of the same pairs. Differences are to the first contestant, pair by pair.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from xrec.config.comparison import SEEDS_FOR_A_VERDICT, ComparisonConfig
from xrec.data.dataset import Dataset
from xrec.data.held_out import HeldOutPair
from xrec.lab.compare.entries import Entry
from xrec.lab.compare.likelihoods import INFOS as LIKELIHOOD_INFOS
from xrec.lab.compare.made import Costs, Made
from xrec.lab.compare.score import Scored
from xrec.lab.measures import MetricInfo, corpus_measures, describe_metrics
from xrec.lab.statistics.figures import MetricRow, Rows, Run, difference_rows, metric_rows, verdict
from xrec.lab.statistics.groups import make_groups

ALL = "all"
COVERAGE = "coverage"

# `table.parquet`: a row a contestant, group and metric. `by_seed` has a value for each seed.
TABLE = pa.schema(
    [
        *(
            pa.field(name, pa.string(), nullable=False)
            for name in ("contestant", "grouping", "group", "metric")
        ),
        pa.field("value", pa.float64(), nullable=False),
        *(
            pa.field(name, pa.float64())
            for name in (
                "low",
                "high",
                "seed_spread",
                "difference",
                "difference_low",
                "difference_high",
            )
        ),
        pa.field("by_seed", pa.list_(pa.field("element", pa.float64(), nullable=False))),
        pa.field("num_pairs", pa.int64(), nullable=False),
    ]
)

_COSTS = {
    "training_seconds": MetricInfo(
        "training_seconds", "Training, s", "lower", "By the clock, with validations.", 0
    ),
    "num_trained_parameters": MetricInfo(
        "num_trained_parameters", "Trained parameters", "lower", "Of what was trained alone.", 0
    ),
    "pairs_per_second": MetricInfo(
        "pairs_per_second", "Texts a second", "higher", "Of one process at work.", 1
    ),
}
COSTS = tuple(_COSTS)


@dataclass(frozen=True)
class Figure:
    """A metric of a contestant on the pairs of a group; `ALL` is the group of all pairs.

    difference: to the first contestant, on the same pairs; None for itself and for costs.
    """

    contestant: str
    grouping: str
    group: str
    own: MetricRow
    difference: MetricRow | None = None

    @property
    def metric(self) -> str:
        """Its name."""
        return self.own.metric

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
    """All figures, in the order of contestants, groups and metrics.

    infos: of the metrics that are there, in order, coverage first and costs last.
    missing: a sentence for each metric that could not be had.
    verdicts: sentences on the differences; empty if none is allowed.
    num_seeds: how many seeds each contestant has; 0 where the seed changes nothing.
    is_told: whether there may be verdicts at all.
    notes: what else a reader of the table must know.
    """

    contestants: tuple[str, ...]
    figures: tuple[Figure, ...]
    infos: Mapping[str, MetricInfo]
    missing: Mapping[str, str]
    verdicts: tuple[str, ...]
    num_seeds: Mapping[str, int]
    is_told: bool = True
    notes: tuple[str, ...] = ()

    def of(self, contestant: str, grouping: str = ALL, group: str = ALL) -> dict[str, Figure]:
        """The figures of a contestant in a group, by metric."""
        return {
            each.metric: each
            for each in self.figures
            if (each.contestant, each.grouping, each.group) == (contestant, grouping, group)
        }

    def seeds_of_verdict(self, contestant: str) -> int:
        """How many seeds a verdict on it against the first contestant rests on.

        Contestants whose texts do not depend on the seed have no seeds to lack.
        """
        seeds = [self.num_seeds[each] for each in (self.contestants[0], contestant)]
        return min((each for each in seeds if each), default=SEEDS_FOR_A_VERDICT)

    @property
    def without_verdict(self) -> str:
        """Why there is no verdict, or none on some contestants; "" if there is one on each."""
        if not self.is_told:
            return "No verdict was asked for (verdict: false)."
        lacking = [
            name
            for name in self.contestants[1:]
            if self.seeds_of_verdict(name) < SEEDS_FOR_A_VERDICT
        ]
        if not lacking:
            return ""
        return (
            f"No verdict on {', '.join(lacking)}: it takes {SEEDS_FOR_A_VERDICT} seeds of each of "
            "the two that is trained."
        )

    def groups(self, grouping: str) -> list[str]:
        """The names of the groups, in order."""
        return list(dict.fromkeys(each.group for each in self.figures if each.grouping == grouping))

    @property
    def groupings(self) -> list[str]:
        """The ways of grouping that there are."""
        return [
            name for name in dict.fromkeys(each.grouping for each in self.figures) if name != ALL
        ]


def result_of(
    config: ComparisonConfig,
    dataset: Dataset,
    pairs: Sequence[HeldOutPair],
    made: Mapping[Entry, Made],
    scored: Mapping[Entry, Scored],
    notes: tuple[str, ...] = (),
) -> Result:
    """The result of all entries, with what else a reader must know."""
    corpus = corpus_measures(dataset)

    def runs_of(contestant: str, rows: Rows | None) -> list[Run]:
        found = []
        for entry, scores in scored.items():
            if entry.contestant == contestant:
                texts = scores.texts if rows is None else scores.texts.of_rows(rows)
                found.append(Run(scores.table, corpus.of_corpus(texts)))
        return found

    figures: list[Figure] = []
    for grouping, group, rows in _groups(config, dataset, pairs):
        runs = {name: runs_of(name, rows) for name in config.contestants}
        figures += _figures(config, runs, grouping, group, rows)
    for contestant in config.contestants:
        costs = [made[entry].costs for entry in made if entry.contestant == contestant]
        figures += _cost_figures(contestant, costs)
    infos = {
        **describe_metrics(config.metrics, dataset, config.llm),
        **{info.name: info for info in LIKELIHOOD_INFOS},
        **_COSTS,
    }
    figures = [_within_bounds(figure, infos[figure.metric]) for figure in figures]
    there = {figure.metric for figure in figures}
    ordered = {name: info for name, info in infos.items() if name in there}
    result = Result(
        config.contestants,
        tuple(figures),
        {COVERAGE: ordered.pop(COVERAGE), **ordered},
        {name: why for scores in scored.values() for name, why in scores.missing.items()},
        (),
        {name: config.num_seeds_of(name) for name in config.contestants},
        config.verdict is not False,
        notes,
    )
    return replace(result, verdicts=tuple(_verdicts(config, result)))


def _groups(
    config: ComparisonConfig, dataset: Dataset, pairs: Sequence[HeldOutPair]
) -> list[tuple[str, str, Rows | None]]:
    """All pairs, then each group of each way of grouping."""
    found: list[tuple[str, str, Rows | None]] = [(ALL, ALL, None)]
    for grouping in config.groups:
        rows = make_groups(dataset, pairs, grouping, config.max_training_pairs).rows(pairs)
        found += [(grouping, name, of_group) for name, of_group in rows.items()]
    return found


def _figures(
    config: ComparisonConfig,
    runs: Mapping[str, Sequence[Run]],
    grouping: str,
    group: str,
    rows: Rows | None,
) -> list[Figure]:
    drawing = {"num_samples": config.bootstrap_samples, "seed": config.pairs_seed}
    first = runs[config.contestants[0]]
    found = []
    for contestant, of_contestant in runs.items():
        own = metric_rows(of_contestant, rows=rows, **drawing)
        differences: dict[str, MetricRow] = {}
        if of_contestant is not first:
            each = difference_rows(of_contestant, first, rows=rows, **drawing)
            differences = {row.metric: row for row in each}
        found += [
            Figure(contestant, grouping, group, row, differences.get(row.metric)) for row in own
        ]
    return found


def _within_bounds(figure: Figure, info: MetricInfo) -> Figure:
    """The figure with an interval that goes no further than the metric can."""
    own = figure.own
    if info.bounds is None or own.low is None or own.high is None:
        return figure
    least, greatest = info.bounds
    return replace(figure, own=replace(own, low=max(own.low, least), high=min(own.high, greatest)))


def _cost_figures(contestant: str, costs: Sequence[Costs]) -> list[Figure]:
    """A cost that a seed does not have is left out."""
    found = []
    for name in COSTS:
        values = tuple(float(value) for each in costs if (value := getattr(each, name)) is not None)
        if values:
            row = MetricRow(name, float(np.mean(values)), None, None, values, 0)
            found.append(Figure(contestant, ALL, ALL, row))
    return found


def _verdicts(config: ComparisonConfig, result: Result) -> list[str]:
    """A sentence a contestant and metric with an interval; none if seeds are too few."""
    if config.verdict is False:
        return []
    first = config.contestants[0]
    found = []
    for name in config.contestants[1:]:
        num_seeds = result.seeds_of_verdict(name)
        if num_seeds < SEEDS_FOR_A_VERDICT:
            continue
        for metric, figure in result.of(name).items():
            difference = figure.difference
            if difference is None or difference.low is None:
                continue
            info = result.infos[metric]
            found.append(verdict(name, first, info, difference, num_seeds=num_seeds))
    return found


def result_table(result: Result) -> pa.Table:
    """All figures in the schema TABLE."""
    return pa.Table.from_pylist([_row(figure) for figure in result.figures], TABLE)


def _row(figure: Figure) -> dict[str, object]:
    own, difference = figure.own, figure.difference
    return {
        "contestant": figure.contestant,
        "grouping": figure.grouping,
        "group": figure.group,
        "metric": own.metric,
        "value": own.value,
        "low": own.low,
        "high": own.high,
        "seed_spread": figure.seed_spread,
        "difference": None if difference is None else difference.value,
        "difference_low": None if difference is None else difference.low,
        "difference_high": None if difference is None else difference.high,
        "by_seed": list(own.by_seed),
        "num_pairs": own.num_pairs,
    }
