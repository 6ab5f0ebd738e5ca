"""The table of aspect choice: NDCG@10 of each method, and how much of it is the user's own.

A pair's figure is its mean over the seeds. Intervals draw users (bootstrap, 95 %); each user has
one pair. Differences are paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.graph_results import Record
from xrec.evaluate.bootstrap import Estimate, bootstrap_mean

_NUM_SAMPLES = 2000
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outcome:
    """NDCG@10 of N test pairs by one method and seed, each (N,).

    `own` ranks for the pair's user, `another` for any other user, and `same_item` for another
    reviewer of the item, NaN where there is none.
    """

    own: Values
    another: Values
    same_item: Values


def rows(outcomes: Mapping[str, Sequence[Outcome]], baselines: Sequence[str]) -> list[Record]:
    """Return a row for each method; all are over the same pairs.

    "minus" compares with the methods `baselines`, as far as they are there.
    """
    references = {
        name: _mean([outcome.own for outcome in outcomes[name]])
        for name in baselines
        if name in outcomes
    }
    return [_row(name, seeds, references) for name, seeds in outcomes.items()]


def _row(name: str, seeds: Sequence[Outcome], references: dict[str, Values]) -> Record:
    own = _mean([outcome.own for outcome in seeds])
    another = _mean([outcome.another for outcome in seeds])
    by_seed = ", ".join(f"{outcome.own.mean():.4f}" for outcome in seeds)
    return {
        "method": name,
        "NDCG@10": _shown(own),
        "by seed": by_seed if len({outcome.own.tobytes() for outcome in seeds}) > 1 else "the same",
        **{f"minus {other}": _shown(own - values) for other, values in references.items()},
        "own minus another's": _shown(own - another),
        "own minus another's of the item": _shown(
            own - _mean([outcome.same_item for outcome in seeds])
        ),
    }


def _mean(values: Sequence[Values]) -> Values:
    mean: Values = np.mean(values, axis=0)
    return mean


def _shown(values: Values) -> str:
    """Return the mean over the pairs that have a value, with its interval."""
    values = values[~np.isnan(values)]
    if not len(values):
        return "no pairs"
    estimate: Estimate = bootstrap_mean(
        values, range(len(values)), num_samples=_NUM_SAMPLES, seed=0
    )
    return estimate.text(4)
