"""The aspects that PETER+ reads of a pair: those that were chosen, or those of its own review."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from xrec.aspects import AspectChooser, read_chooser
from xrec.config.baselines import PeerKind
from xrec.data.dataset import Dataset
from xrec.errors import DataError
from xrec.lab.baselines.words import PAD, Words
from xrec.storage import Location

Names = tuple[str, ...]


class AspectNames(Protocol):
    """Gives the aspects of pairs."""

    def of(self, users: Sequence[int], items: Sequence[int]) -> list[Names]:
        """The names of each pair's aspects, the best first; pairs are given by their indices."""
        ...


class NoAspects:
    """Of a peer that reads none."""

    def of(self, users: Sequence[int], items: Sequence[int]) -> list[Names]:
        """See AspectNames."""
        return [()] * len(users)


class ChosenAspects:
    """What `xrec train-aspects` chooses, of a training pair without its own review."""

    def __init__(self, chooser: AspectChooser, names: Sequence[str], count: int):
        self._chooser, self._names, self._count = chooser, names, count

    def of(self, users: Sequence[int], items: Sequence[int]) -> list[Names]:
        """See AspectNames."""
        pairs = (np.array(users, dtype=np.int64), np.array(items, dtype=np.int64))
        chosen = self._chooser.choose(*pairs, self._count, leave_out_own=True)
        return [
            tuple(self._names[aspect] for aspect in row if aspect >= 0)
            for row in chosen.aspects.tolist()
        ]


class OwnAspects:
    """What the pair's own review mentions, held-out reviews too: an oracle."""

    def __init__(self, dataset: Dataset, count: int):
        self._of: dict[tuple[int, int], list[str]] = defaultdict(list)
        self._count = count
        names = aspect_vocabulary(dataset)
        assert dataset.explanation_aspects is not None
        for row in dataset.explanation_aspects.to_pylist():
            pair = (row["user_index"], row["item_index"])
            self._of[pair].append(names[row["aspect_index"]])

    def of(self, users: Sequence[int], items: Sequence[int]) -> list[Names]:
        """See AspectNames."""
        return [
            tuple(self._of.get(pair, ())[: self._count]) for pair in zip(users, items, strict=True)
        ]


def aspect_vocabulary(dataset: Dataset) -> list[str]:
    """The names of all aspects, by index; raises DataError if the dataset has no aspects."""
    if dataset.aspects is None or dataset.explanation_aspects is None:
        raise DataError(
            "the dataset has no aspects, which peter_plus reads; expected one that was prepared "
            "from annotations (`xrec annotate`), or with prepare.aspects_from: {kind: profiles}; "
            "kind: peter needs none"
        )
    names: list[str] = dataset.aspects["aspect"].to_pylist()
    return names


def aspect_names(kind: PeerKind, dataset: Dataset, aspects: Location, count: int) -> AspectNames:
    """What a peer of this kind reads; `aspects` is where the artifact of train-aspects lies.

    Raises DataError if the dataset has no aspects, and what `read_chooser` raises.
    """
    if kind == "peter_plus":
        return ChosenAspects(read_chooser(aspects, dataset), aspect_vocabulary(dataset), count)
    if kind == "peter_plus_oracle":
        return OwnAspects(dataset, count)
    return NoAspects()


def aspect_ids(words: Words, names: Names, num_words: int) -> tuple[int, ...]:
    """The words of the aspects, `num_words` ids; PAD where there are fewer."""
    ids = [index for name in names for index in words.encode_within(name)][:num_words]
    return (*ids, *[PAD] * (num_words - len(ids)))
