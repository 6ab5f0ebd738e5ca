"""What people's answers say: mean ratings, wins against the first contestant, agreement, and which
automatic metric goes with them.

A win is a pair and a judge who rated the contestant higher than the first one; equal ratings count
half. Intervals are by user.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from xrec.evaluate.bootstrap import Estimate, bootstrap_mean
from xrec.lab.blind.agreement import agreement, text_of
from xrec.lab.measures.contestant_texts import PairIds
from xrec.lab.statistics.rank_correlation import rank_correlation

_MOST_DRAWS = 1000  # of each metric and question

Scores = Mapping[str, Mapping[str, Mapping[PairIds, float]]]
"""A metric's values by metric, contestant and pair."""


@dataclass(frozen=True)
class Judged:
    """A contestant by one question; `win_rate` is None for the first one."""

    contestant: str
    question: str
    rating: Estimate
    win_rate: Estimate | None
    num_ratings: int


@dataclass(frozen=True)
class Correlation:
    """How a metric goes with a question's ratings over texts: Spearman's rank correlation."""

    metric: str
    question: str
    spearman: Estimate
    num_texts: int


@dataclass(frozen=True)
class Judgement:
    """What the answers of `num_judges` people say; `alpha` by question, None of a single judge."""

    num_judges: int
    judged: tuple[Judged, ...]
    alpha: Mapping[str, float | None]
    correlations: tuple[Correlation, ...]


def judge(
    ratings: pa.Table,
    contestants: Sequence[str],
    scores: Scores,
    *,
    num_samples: int,
    seed: int,
) -> Judgement:
    """Evaluate ratings (schema RATINGS); the first contestant is what others win against."""
    rows = ratings.to_pylist()
    questions = list(dict.fromkeys(row["question"] for row in rows))
    judged, correlations = [], []
    for question in questions:
        of_question = [row for row in rows if row["question"] == question]
        for name in contestants:
            found = _judged(of_question, name, contestants[0], question, num_samples, seed)
            if found is not None:
                judged.append(found)
        means = _mean_ratings(of_question)
        for metric, values in scores.items():
            found_too = _correlation(metric, question, means, values, num_samples, seed)
            if found_too is not None:
                correlations.append(found_too)
    alpha = {
        question: agreement([row for row in rows if row["question"] == question])
        for question in questions
    }
    num_judges = len({row["judge"] for row in rows})
    return Judgement(num_judges, tuple(judged), alpha, tuple(correlations))


def _judged(
    rows: list[dict[str, Any]], name: str, first: str, question: str, num_samples: int, seed: int
) -> Judged | None:
    own = [row for row in rows if row["contestant"] == name]
    if not own:
        return None
    rating = bootstrap_mean(
        [row["rating"] for row in own],
        [row["user_id"] for row in own],
        num_samples=num_samples,
        seed=seed,
    )
    against = {
        (row["judge"], row["user_id"], row["item_id"]): row["rating"]
        for row in rows
        if row["contestant"] == first
    }
    both = [
        (row, against[key])
        for row in own
        if (key := (row["judge"], row["user_id"], row["item_id"])) in against
    ]
    win_rate = None
    if name != first and both:
        wins = [(row["rating"] > other) + 0.5 * (row["rating"] == other) for row, other in both]
        users = [row["user_id"] for row, _ in both]
        win_rate = bootstrap_mean(wins, users, num_samples=num_samples, seed=seed)
    return Judged(name, question, rating, win_rate, len(own))


def _mean_ratings(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str], float]:
    """The mean over judges of each text."""
    found: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for row in rows:
        found[text_of(row)].append(row["rating"])
    return {text: float(np.mean(values)) for text, values in found.items()}


def _correlation(
    metric: str,
    question: str,
    means: Mapping[tuple[str, str, str], float],
    values: Mapping[str, Mapping[PairIds, float]],
    num_samples: int,
    seed: int,
) -> Correlation | None:
    """None if the metric or the ratings do not differ among the texts that have both."""
    points = [
        (user, rating, value)
        for (user, item, name), rating in means.items()
        if np.isfinite(value := values.get(name, {}).get((user, item), np.nan))
    ]
    if not points:
        return None
    users, ratings, scored = zip(*points, strict=True)
    draws = min(num_samples, _MOST_DRAWS)
    estimate = rank_correlation(ratings, scored, users, num_samples=draws, seed=seed)
    return None if estimate is None else Correlation(metric, question, estimate, len(points))
