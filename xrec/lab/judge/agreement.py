"""How far judges agree about the same texts: rank correlation, pair by pair.

Two judges may differ by tens of points and still rank texts alike. So what is compared is
Spearman's correlation over pairs, with an interval by resampling users. Several scores of one judge
of a pair are averaged first.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pyarrow as pa

from xrec.errors import DataError
from xrec.lab.statistics.rank_correlation import rank_correlation

JUDGE_SCORES = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("judge", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
    ]
)
AGREEMENT = pa.schema(
    [
        pa.field("judge", pa.string(), nullable=False),
        pa.field("other", pa.string(), nullable=False),
        pa.field("spearman", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("mean_difference", pa.float64()),
        pa.field("num_pairs", pa.int64(), nullable=False),
    ]
)
_PREFIX = "gptscore_"
_NO_SCORES = ("_failed", "_sample_std")
Scores = Mapping[tuple[str, str], float]
"""The mean score of each pair, by user and item."""


def judge_scores(table: pa.Table) -> pa.Table:
    """The scores of all judges in a table of `Measures.of_pairs` (schema JUDGE_SCORES).

    Pairs without a text, which no judge has seen, and pairs at which a judge failed are left out.
    """
    columns = [
        name
        for name in table.column_names
        if name.startswith(_PREFIX) and not name.endswith(_NO_SCORES)
    ]
    rows = [
        {
            "user_id": row["user_id"],
            "item_id": row["item_id"],
            "judge": name.removeprefix(_PREFIX),
            "score": row[name],
        }
        for row in table.to_pylist()
        for name in columns
        if row["text"] and row[name] is not None
    ]
    return pa.Table.from_pylist(rows, schema=JUDGE_SCORES)


def agreement(
    scores: pa.Table, published: pa.Table | None = None, *, num_samples: int = 1000, seed: int = 0
) -> pa.Table:
    """Each two judges of `scores`, and each with each one of `published` (schema AGREEMENT).

    Both tables have the columns of JUDGE_SCORES and are of the same texts. spearman is null where
    fewer than three pairs have both scores, or one of the judges says the same of all.
    mean_difference is the judge's mean minus the other's. Raises DataError if a table lacks a
    column, or both have scores and no pair is in both.
    """
    ours = _by_judge(scores)
    theirs = {} if published is None else _by_judge(published)
    if ours and theirs and not _pairs(ours) & _pairs(theirs):
        raise DataError(
            f"judges' scores of {len(_pairs(theirs))} pairs, none of which is among the "
            f"{len(_pairs(ours))} scored ones; give scores of the same pairs, by their ids"
        )
    couples = [*combinations(ours.items(), 2)]
    couples += [(mine, other) for mine in ours.items() for other in theirs.items()]
    rows = [
        {"judge": name, "other": other, **_compared(first, second, num_samples, seed)}
        for (name, first), (other, second) in couples
    ]
    return pa.Table.from_pylist(rows, schema=AGREEMENT)


def _by_judge(table: pa.Table) -> dict[str, Scores]:
    missing = [name for name in JUDGE_SCORES.names if name not in table.column_names]
    if missing:
        raise DataError(
            f"a table of judges' scores has the columns {', '.join(table.column_names)}; expected "
            f"{', '.join(JUDGE_SCORES.names)}"
        )
    found: dict[str, dict[tuple[str, str], list[float]]] = {}
    for row in table.select(JUDGE_SCORES.names).to_pylist():
        ids = (str(row["user_id"]), str(row["item_id"]))
        found.setdefault(row["judge"], {}).setdefault(ids, []).append(row["score"])
    return {
        judge: {ids: float(np.mean(scores)) for ids, scores in of_judge.items()}
        for judge, of_judge in found.items()
    }


def _pairs(scores: Mapping[str, Scores]) -> set[tuple[str, str]]:
    return {ids for of_judge in scores.values() for ids in of_judge}


def _compared(first: Scores, second: Scores, num_samples: int, seed: int) -> dict[str, object]:
    shared = [ids for ids in first if ids in second]
    values = np.array([[first[ids], second[ids]] for ids in shared]).reshape(-1, 2)
    users = [user for user, _ in shared]
    found = rank_correlation(values[:, 0], values[:, 1], users, num_samples=num_samples, seed=seed)
    return {
        "spearman": None if found is None else found.value,
        "low": None if found is None else found.low,
        "high": None if found is None else found.high,
        "mean_difference": float((values[:, 0] - values[:, 1]).mean()) if len(values) else None,
        "num_pairs": len(values),
    }
