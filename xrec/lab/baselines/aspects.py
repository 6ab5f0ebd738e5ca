"""The aspects that PETER+ reads of a pair: those that `xrec train-aspects` chooses."""

from collections.abc import Sequence

import numpy as np

from xrec.aspects import AspectChooser, read_chooser
from xrec.data.dataset import Dataset
from xrec.errors import DataError
from xrec.lab.baselines.baseline import Baseline
from xrec.lab.baselines.words import PAD, Words

NUM_ASPECTS, NUM_ASPECT_WORDS = 1, 3
"""How many aspects PETER+ reads of a pair, and of how many words in all; others are cut off."""
Names = tuple[str, ...]


class ChosenAspects:
    """What is chosen for pairs, of a training pair without its own review."""

    def __init__(self, chooser: AspectChooser, names: Sequence[str]):
        self._chooser, self._names = chooser, names

    def of(self, users: Sequence[int], items: Sequence[int]) -> list[Names]:
        """The names of each pair's aspects, the best first; pairs are given by their indices."""
        pairs = (np.array(users, dtype=np.int64), np.array(items, dtype=np.int64))
        chosen = self._chooser.choose(*pairs, NUM_ASPECTS, leave_out_own=True)
        return [
            tuple(self._names[aspect] for aspect in row if aspect >= 0)
            for row in chosen.aspects.tolist()
        ]


def read_aspects(baseline: Baseline, dataset: Dataset) -> ChosenAspects | None:
    """What the baseline reads; None unless it is PETER+.

    Raises DataError if the dataset has no aspects, and what `read_chooser` raises.
    """
    if baseline.kind != "peter_plus":
        return None
    if dataset.aspects is None:
        raise DataError(
            "the dataset has no aspects, which peter_plus reads; expected one that was prepared "
            "from annotations (`xrec annotate`), or with prepare.aspects_from: {kind: profiles}; "
            "peter needs none"
        )
    chooser = read_chooser(baseline.open(baseline.aspects), dataset)
    return ChosenAspects(chooser, dataset.aspects["aspect"].to_pylist())


def aspect_ids(words: Words, names: Names) -> tuple[int, ...]:
    """The words of the aspects, NUM_ASPECT_WORDS ids; PAD where there are fewer."""
    ids = [index for name in names for index in words.encode_within(name)][:NUM_ASPECT_WORDS]
    return (*ids, *[PAD] * (NUM_ASPECT_WORDS - len(ids)))
