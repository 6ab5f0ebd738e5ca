"""How far judges agree about the same texts: rank correlation, pair by pair.

Two judges may differ by tens of points and still rank texts alike. So what is compared is
Spearman's correlation over pairs, with an interval by resampling users. Several scores of one judge
of a pair are averaged first.
"""

from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr

from xrec.errors import DataError

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
    column, or no pair is in both.
    """
    ours = _by_judge(scores)
    theirs = {} if published is None else _by_judge(published)
    if theirs and not _pairs(ours) & _pairs(theirs):
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
    low, high = _interval(values, [user for user, _ in shared], num_samples, seed)
    return {
        "spearman": _spearman(values),
        "low": low,
        "high": high,
        "mean_difference": float((values[:, 0] - values[:, 1]).mean()) if len(values) else None,
        "num_pairs": len(values),
    }


def _spearman(values: NDArray[np.float64]) -> float | None:
    if len(values) < 3 or (values == values[0]).all(axis=0).any():
        return None
    return float(spearmanr(values[:, 0], values[:, 1]).statistic)


def _interval(
    values: NDArray[np.float64], users: Sequence[Hashable], num_samples: int, seed: int
) -> tuple[float | None, float | None]:
    """The 2.5 and 97.5 percentiles of the correlation, with users drawn; None if it has none.

    Ranks are those among all pairs, in each draw too: ranking every draw anew changes little, and
    takes minutes.
    """
    if _spearman(values) is None:
        return None, None
    ranks = rankdata(values, axis=0) - (len(values) + 1) / 2
    first, second = ranks.T
    numbers = {user: number for number, user in enumerate(dict.fromkeys(users))}
    index = [numbers[user] for user in users]
    parts = (np.ones(len(ranks)), first, second, first**2, second**2, first * second)
    of_users = np.stack([np.bincount(index, weights=part) for part in parts], axis=1)  # (U, 6)
    rng, num_users = np.random.default_rng(seed), len(of_users)
    shares = np.full(num_users, 1 / num_users)
    drawn = np.stack(
        [rng.multinomial(num_users, shares) @ of_users for _ in range(num_samples)], axis=1
    )
    count, x, y, xx, yy, xy = drawn
    spread = (xx - x * x / count) * (yy - y * y / count)
    found = (xy - x * y / count)[spread > 1e-9] / np.sqrt(spread[spread > 1e-9])
    low, high = np.percentile(found, [2.5, 97.5]) if len(found) else (np.nan, np.nan)
    return (float(low), float(high)) if len(found) else (None, None)
