"""The leak meter: whether training inputs fit their references better than later inputs will.

For each input it measures the fit to the pair's own reference, and the fit of another pair's input
to that reference, on training pairs as training shows them and on held-out pairs. If training
inputs contain their target, an adapter learns to copy, and later there is nothing to copy.

| input | fit to the reference | compared with |
|---|---|---|
| user profile | share of the reference's aspects that it names | another user of the item |
| item profile | the same | another item of the user |
| user vector | cosine with the reference's aspects, if the graph has any | any user |
| vectors | cosine of the user's with the item's | any user |

If no other pair has the same item (or user), any pair is compared. Without aspects in the dataset,
words of at least four letters are used. The aspects that a training prompt lists are taken from the
reference on purpose, and are not measured.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn.functional import cosine_similarity

from xrec.checks import AspectNames
from xrec.data import Dataset, edges_of, index_keys, pair_keys
from xrec.evaluate.intervals import mean_interval
from xrec.graph.artifact import GraphEmbeddings
from xrec.graph.leave_out import TrainingVectors

_MOST_PAIRS = 2000  # of training, and held out
_LEAST_GAP = 0.05
_WORD = re.compile(r"\w{4,}")
_USER, _ITEM = 0, 1  # positions in a pair

Pair = tuple[int, int]
Indices = npt.NDArray[np.int64]
FitOf = Callable[[Pair, Pair], float | None]
"""The fit of the first pair's input to the second one's reference; None if unknown."""


@dataclass(frozen=True)
class Fit:
    """The mean fit of an input to its own reference, on training and on held-out pairs.

    `..._other` is the fit of another pair's input. `gap` is (own - other) on training pairs minus
    that on held-out pairs, with a 95 % interval.
    """

    train: float
    train_other: float
    held_out: float
    held_out_other: float
    gap: float
    gap_low: float
    gap_high: float

    @property
    def is_leak(self) -> bool:
        """Whether training inputs fit better than held-out ones, clearly and significantly."""
        fits_own = self.train - self.train_other > _LEAST_GAP
        return fits_own and self.gap_low > 0 and self.gap > _LEAST_GAP

    def warning(self, name: str) -> str:
        """Return the warning for an input that leaks."""
        return (
            f"{name}: its fit to its own reference is {self.train:.2f} in training (another's: "
            f"{self.train_other:.2f}), but {self.held_out:.2f} on held-out pairs (another's: "
            f"{self.held_out_other:.2f}). It was made from the reference, so the adapter learns to "
            "copy what will be missing later; docs/adapter.md explains how to leave it out"
        )


def measure_leak(
    dataset: Dataset,
    graph: GraphEmbeddings,
    vectors: TrainingVectors | None,
    *,
    leave_out_own: bool,
) -> dict[str, Fit]:
    """Return the fit of each input that can be measured, by name.

    vectors: those that training shows; None for the graph's own. leave_out_own: whether training
    shows profiles without the pair's review.
    """
    inputs = _Inputs(dataset, graph, vectors, leave_out_own=leave_out_own)
    measures: dict[str, tuple[FitOf, int | None]] = {
        "user profile": (inputs.user_profile, _ITEM),
        "item profile": (inputs.item_profile, _USER),
        "vectors": (inputs.both_vectors, None),
    }
    if graph.aspects is not None:
        measures["user vector"] = (inputs.user_vector, None)
    training, *held_out = (
        edges_of(dataset.explained_pairs(split)) for split in ("train", "validation", "test")
    )
    found = {
        name: _fit(training, np.hstack(held_out), *measure) for name, measure in measures.items()
    }
    return {name: fit for name, fit in found.items() if fit is not None}


class _Inputs:
    """The inputs of pairs, and their fit to references."""

    def __init__(
        self,
        dataset: Dataset,
        graph: GraphEmbeddings,
        vectors: TrainingVectors | None,
        *,
        leave_out_own: bool,
    ):
        self._dataset, self._leave_out_own = dataset, leave_out_own
        self._graph, self._vectors, self._mean_user = graph, vectors, graph.users.mean(dim=0)
        self._aspects = None if graph.aspects is None else graph.aspects - graph.aspects.mean(dim=0)
        aspects = [] if dataset.aspects is None else dataset.aspects["aspect"].to_pylist()
        self._rows = {name: row for row, name in enumerate(aspects)}
        self._names = AspectNames(aspects) if aspects else None
        self._found: dict[str, frozenset[str]] = {}
        self._explanations, self._keys = dataset.explanations, pair_keys(dataset.explanations)

    def user_profile(self, of: Pair, to: Pair) -> float | None:
        return self._share_named(self._profile(of)[0], to)

    def item_profile(self, of: Pair, to: Pair) -> float | None:
        return self._share_named(self._profile(of)[1], to)

    def user_vector(self, of: Pair, to: Pair) -> float | None:
        said = self._said(self._reference(to))
        rows = [self._rows[name] for name in said if name in self._rows]
        if not rows or self._aspects is None:
            return None
        user = self._vectors_of(of)[0] - self._mean_user
        return float(cosine_similarity(self._aspects[rows], user[None]).mean())

    def both_vectors(self, of: Pair, to: Pair) -> float | None:
        return float(cosine_similarity(self._vectors_of(of)[0], self._vectors_of(to)[1], dim=0))

    def _reference(self, pair: Pair) -> str:
        row = int(np.searchsorted(self._keys, index_keys(*pair)))
        return str(self._explanations["explanation"][row])

    def _profile(self, pair: Pair) -> tuple[str, str]:
        return self._dataset.profiles_of(*pair, leave_out_own=self._leave_out_own)

    def _vectors_of(self, pair: Pair) -> tuple[Tensor, Tensor]:
        row = self._dataset.training_row(*pair)
        if self._vectors is None or row is None:
            return self._graph.users[pair[0]], self._graph.items[pair[1]]
        return self._vectors.users[row], self._vectors.items[row]

    def _share_named(self, text: str, to: Pair) -> float | None:
        wanted = self._said(self._reference(to))
        return len(wanted & self._said(text)) / len(wanted) if wanted else None

    def _said(self, text: str) -> frozenset[str]:
        if text not in self._found:
            self._found[text] = frozenset(
                _WORD.findall(text.lower())
                if self._names is None
                else (each.name for each in self._names.find(text))
            )
        return self._found[text]


def _fit(training: Indices, held_out: Indices, fit_of: FitOf, shared: int | None) -> Fit | None:
    """Return an input's fit; compared pairs have the same `shared` (None: any)."""
    train, held = (list(_compared(pairs, fit_of, shared)) for pairs in (training, held_out))
    if not train or not held:
        return None
    (own, other, half), (own_held, other_held, half_held) = _means(train), _means(held)
    gap, either = (own - other) - (own_held - other_held), math.hypot(half, half_held)
    return Fit(own, other, own_held, other_held, gap, gap - either, gap + either)


def _compared(
    pairs: Indices, fit_of: FitOf, shared: int | None
) -> Iterator[tuple[int, float, float]]:
    """Yield the user, own fit, and another pair's fit of a sample of `pairs` (2, P)."""
    rng, num_pairs = np.random.default_rng(0), pairs.shape[1]
    every = np.arange(num_pairs)
    keys = np.zeros(num_pairs, np.int64) if shared is None else pairs[shared]
    order = np.argsort(keys, kind="stable")
    for place in rng.permutation(num_pairs)[:_MOST_PAIRS]:
        first, stop = np.searchsorted(keys, [keys[place], keys[place] + 1], sorter=order)
        others = order[first:stop] if stop - first > 1 else every
        pair, drawn = (_pair(pairs, row) for row in (place, others[rng.integers(len(others))]))
        own, other = fit_of(pair, pair), fit_of(drawn, pair)
        if drawn != pair and own is not None and other is not None:
            yield pair[0], own, other


def _pair(pairs: Indices, row: int) -> Pair:
    return int(pairs[0, row]), int(pairs[1, row])


def _means(rows: Iterable[tuple[int, float, float]]) -> tuple[float, float, float]:
    """Return the means of own and other, and half the interval of their difference by users."""
    users, own, other = (np.array(column) for column in zip(*rows, strict=True))
    difference = mean_interval(own - other, users.tolist())
    half = 0.0 if difference.high is None else difference.high - difference.value
    return float(own.mean()), float(other.mean()), half
