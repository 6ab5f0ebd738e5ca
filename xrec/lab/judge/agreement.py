"""How far judges agree about the same texts: rank correlation, pair by pair.

Two judges may differ by tens of points and still rank texts alike. So what is compared is
Spearman's correlation over pairs, with an interval by resampling users.
"""

from collections.abc import Hashable, Sequence
from itertools import combinations

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike
from scipy.stats import rankdata, spearmanr

from xrec.evaluate.bootstrap import Estimate

_LEAST = 3
_NO_SPREAD = 1e-9


def agreement_lines(
    entry: str, scores: pa.Table, judges: Sequence[str], *, num_samples: int, seed: int
) -> list[str]:
    """A sentence on each two judges of an entry's texts.

    scores: as `Measures.of_pairs` gives them. Pairs without a text, which no judge has seen, and
    pairs at which a judge failed are left out. There is no sentence where fewer than three pairs
    are left, or a judge says the same of all.
    """
    users, texts = (
        np.array(scores[name].to_pylist(), dtype=object) for name in ("user_id", "text")
    )
    has_text = np.array([bool(text) for text in texts], dtype=np.bool_)
    values = {name: scores[f"gptscore_{name}"].to_numpy().astype(np.float64) for name in judges}
    lines = []
    for first, second in combinations(judges, 2):
        both = has_text & np.isfinite(values[first]) & np.isfinite(values[second])
        ours, theirs = values[first][both], values[second][both]
        found = rank_correlation(
            ours, theirs, users[both].tolist(), num_samples=num_samples, seed=seed
        )
        if found is not None:
            lines.append(
                f"Judges {first} and {second} rank the texts of `{entry}` alike by "
                f"{found.text(2)}, Spearman's correlation over {int(both.sum()):,} pairs; their "
                f"means differ by {float(ours.mean() - theirs.mean()):+.1f}."
            )
    return lines


def rank_correlation(
    left: ArrayLike, right: ArrayLike, users: Sequence[Hashable], *, num_samples: int, seed: int
) -> Estimate | None:
    """The correlation of two arrays (N,), with its 95 % interval by user.

    None for fewer than three values, or if one side is constant; no interval if all values are of
    one user. Ranks are those among all values,
    in each draw too: ranking every draw anew changes little, and takes minutes.
    """
    values = np.stack([np.asarray(side, dtype=np.float64) for side in (left, right)], axis=1)
    if len(values) < _LEAST or (values == values[0]).all(axis=0).any():
        return None
    first, second = (rankdata(values, axis=0) - (len(values) + 1) / 2).T
    value = float(spearmanr(values[:, 0], values[:, 1]).statistic)
    numbers = {user: number for number, user in enumerate(dict.fromkeys(users))}
    if len(numbers) < 2:
        return Estimate(value)
    index = [numbers[user] for user in users]
    parts = (np.ones(len(first)), first, second, first**2, second**2, first * second)
    of_users = np.stack([np.bincount(index, weights=part) for part in parts], axis=1)  # (U, 6)
    rng, num_users = np.random.default_rng(seed), len(of_users)
    shares = np.full(num_users, 1 / num_users)
    drawn = np.stack(
        [rng.multinomial(num_users, shares) @ of_users for _ in range(num_samples)], axis=1
    )
    count, x, y, xx, yy, xy = drawn
    spread = (xx - x * x / count) * (yy - y * y / count)
    there = spread > _NO_SPREAD
    found = (xy - x * y / count)[there] / np.sqrt(spread[there])
    if not len(found):
        return Estimate(value)
    low, high = np.percentile(found, [2.5, 97.5])
    return Estimate(value, float(low), float(high))
