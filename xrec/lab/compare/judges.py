"""What is said of the judges themselves: spread, agreement, failures and tokens.

`judges.md` is for a reader. `judges.parquet` has a row for each entry and two judges; one of them
may be a published one, whose scores of the same texts the config names.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from xrec.config.comparison import ComparisonConfig
from xrec.config.shared import StorageConfig
from xrec.lab.compare.entries import Entry
from xrec.lab.compare.score import Scored
from xrec.lab.judge import AGREEMENT, agreement, judge_scores, read_judge_scores
from xrec.lab.markdown import table_lines
from xrec.storage import content_hash, fingerprint_of, open_location

JUDGES_FILE, JUDGES_PAGE = "judges.parquet", "judges.md"
JUDGES = pa.schema([pa.field("entry", pa.string(), nullable=False), *AGREEMENT])


def judge_scores_fingerprint(uri: str, storage: StorageConfig) -> str:
    """Of published scores: the file's content, and the column that is read."""
    place, _, column = uri.partition("#")
    return fingerprint_of([content_hash(open_location(place, storage).read_bytes()), column])


def published_judges(config: ComparisonConfig) -> dict[str, pa.Table]:
    """The scores that judges elsewhere gave, by contestant; raises DataError for broken ones."""
    return {
        name: read_judge_scores(texts.judge_scores, config.storage)
        for name, texts in config.texts.items()
        if name in config.contestants and texts.judge_scores is not None
    }


def judges_table(
    config: ComparisonConfig, scored: Mapping[Entry, Scored], published: Mapping[str, pa.Table]
) -> pa.Table:
    """The agreement of each two judges about each entry's texts (schema JUDGES).

    published: see `published_judges`. Raises DataError for some that are of none of the pairs.
    """
    rows = []
    for entry, scores in scored.items():
        found = agreement(
            judge_scores(scores.table),
            published.get(entry.contestant),
            num_samples=config.bootstrap_samples,
            seed=config.pairs_seed,
        )
        rows += [{"entry": entry.name, **row} for row in found.to_pylist()]
    return pa.Table.from_pylist(rows, schema=JUDGES)


def judges_page(
    config: ComparisonConfig, scored: Mapping[Entry, Scored], agreements: pa.Table
) -> str:
    """`judges.md`; `agreements` is what `judges_table` returns."""
    names = [judge.name for judge in config.metrics.judges]
    lines = [
        "# Judges",
        "",
        "Scores from 0 to 100 of the same pairs. Judges differ in level and in order: compare",
        "contestants by one judge, and believe what several judges say.",
        "",
        *table_lines(
            ("texts", "judge", "mean", "spread of pairs", "spread of samples", "failed replies"),
            [
                _score_row(entry, scores, name)
                for entry, scores in scored.items()
                for name in names
                if f"gptscore_{name}" in scores.table.column_names
            ],
        ),
        "",
        "## Agreement",
        "",
        "Spearman's correlation over the pairs with both scores; in brackets: 95 % intervals by",
        "user. The difference is that of the judges' means.",
        "",
        *table_lines(
            ("texts", "judge", "other", "correlation", "difference", "pairs"),
            [_agreement_row(row) for row in agreements.to_pylist()],
        ),
        "",
        "## What they were asked",
        "",
        "Replies that several contestants share, such as those about a reference, count for each.",
        "",
        *table_lines(
            ("texts", "judge", "what", "count"),
            [
                (entry.name, *name.split(":", 1), f"{count:,.0f}")
                for entry, scores in scored.items()
                for name, count in sorted(scores.judge_costs.items())
            ],
        ),
    ]
    return "\n".join(lines) + "\n"


def _score_row(entry: Entry, scores: Scored, judge: str) -> tuple[str, ...]:
    values = _values(scores.table, f"gptscore_{judge}")
    spread = f"gptscore_{judge}_sample_std"
    of_samples = _values(scores.table, spread) if spread in scores.table.column_names else None
    return (
        entry.name,
        judge,
        _number(np.nanmean(values) if np.isfinite(values).any() else None),
        _number(np.nanstd(values) if np.isfinite(values).any() else None),
        _number(
            None
            if of_samples is None or not np.isfinite(of_samples).any()
            else np.nanmean(of_samples)
        ),
        f"{np.nansum(_values(scores.table, f'gptscore_{judge}_failed')):,.0f}",
    )


def _agreement_row(row: Mapping[str, object]) -> tuple[str, ...]:
    interval = "" if row["low"] is None else f" ({row['low']:.2f} to {row['high']:.2f})"
    correlation = "" if row["spearman"] is None else f"{row['spearman']:.2f}{interval}"
    difference = "" if row["mean_difference"] is None else f"{row['mean_difference']:+.1f}"
    names = (str(row[name]) for name in ("entry", "judge", "other"))
    return (*names, correlation, difference, f"{row['num_pairs']:,}")


def _values(table: pa.Table, column: str) -> np.ndarray:
    return np.asarray(table[column].to_numpy(), dtype=np.float64)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
