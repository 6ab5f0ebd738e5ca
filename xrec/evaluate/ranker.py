"""Trains the ranker of texts on validation pairs, whose references are known.

What a text is worth is the mean of two F1: ROUGE-L against the reference, and the aspects that it
names against those that the reference names; the first alone for a dataset without aspects. Within
a pair, worth and features are taken less their means over its candidates: the ranker learns what
tells the candidates of one pair apart. The weights are those of ridge regression.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xrec.checks import AspectNames
from xrec.errors import DataError
from xrec.evaluate.text_metrics import rouge_l
from xrec.generate.candidates import FEATURES, Ranker

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RankedPair:
    """The M usable candidates of a pair: features (M, F), and what each is worth, (M,)."""

    features: Floats
    worth: Floats


@dataclass(frozen=True)
class TrainedRanker:
    """The ranker, and the mean worth of the texts that different choices take.

    chosen: by rankers that were trained on other pairs. first: the first text, as with one
    candidate. best: the best one, which nothing can do without the reference.
    """

    ranker: Ranker
    chosen: float
    first: float
    best: float


def worth_of(texts: Sequence[str], reference: str, names: AspectNames) -> Floats:
    """What each of M texts is worth beside the reference, (M,), 0 to 1."""
    likeness = rouge_l(texts, [reference] * len(texts))
    wanted = {found.name for found in names.find(reference)}
    if not wanted:
        return likeness
    named = [{found.name for found in names.find(text)} for text in texts]
    overlap = np.array([_f1(each, wanted) for each in named], dtype=np.float64)
    return np.asarray((likeness + overlap) / 2, dtype=np.float64)


def train_ranker(
    pairs: Sequence[RankedPair], *, ridge: float, num_folds: int, seed: int
) -> TrainedRanker:
    """Train on pairs that have two usable candidates or more; the others tell nothing.

    Raises DataError if fewer than `num_folds` pairs have two.
    """
    telling = [pair for pair in pairs if len(pair.worth) > 1]
    if len(telling) < num_folds:
        raise DataError(
            f"{len(telling)} of {len(pairs)} pairs have two usable texts or more; expected at "
            f"least training.num_folds = {num_folds}: draw more pairs (training.max_pairs) or more "
            "texts (decoding.num_candidates), or loosen the rules (decoding.text)"
        )
    order = np.random.default_rng(seed).permutation(len(telling))
    chosen: list[float] = []
    for part in np.array_split(order, num_folds):
        held_out = set(part.tolist())
        ranker = _fit([pair for i, pair in enumerate(telling) if i not in held_out], ridge)
        chosen += [
            float(telling[i].worth[ranker.best(telling[i].features.tolist())]) for i in held_out
        ]
    return TrainedRanker(
        _fit(telling, ridge),
        float(np.mean(chosen)),
        float(np.mean([pair.worth[0] for pair in telling])),
        float(np.mean([pair.worth.max() for pair in telling])),
    )


def _fit(pairs: Sequence[RankedPair], ridge: float) -> Ranker:
    features = np.concatenate([pair.features for pair in pairs])
    means, stds = features.mean(axis=0), features.std(axis=0)
    stds = np.where(stds > 0, stds, 1.0)
    table = np.concatenate([(pair.features - pair.features.mean(axis=0)) / stds for pair in pairs])
    worth = np.concatenate([pair.worth - pair.worth.mean() for pair in pairs])
    gram = table.T @ table + ridge * len(table) * np.eye(len(FEATURES))
    weights = np.linalg.solve(gram, table.T @ worth)
    return Ranker(tuple(weights.tolist()), tuple(means.tolist()), tuple(stds.tolist()))


def _f1(named: set[str], wanted: set[str]) -> float:
    return 2 * len(named & wanted) / (len(named) + len(wanted))
