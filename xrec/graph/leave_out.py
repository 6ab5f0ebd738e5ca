"""Cross-fitting: vectors of explained training pairs from graphs that have not seen the pair.

A vector that was trained on a pair knows it, but later pairs are new: an adapter that learns from
the former relies on something that will be missing. So the explained training pairs are divided
into folds, and for each fold a graph is trained without its interactions and reviews. Its vectors
are rotated onto those of the whole graph, because two trainings differ by a rotation, among others.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from xrec.data import Dataset, aspect_counts, edges_of, pair_keys, visited_aspects
from xrec.graph.artifact import read_vectors
from xrec.storage import Location, Manifest

TRAINING_VECTORS = "training_vectors.safetensors"


@dataclass(frozen=True)
class TrainingVectors:
    """The vectors of the P explained training pairs, in the dataset's order.

    users, items: (P, D) float32, from graphs that were trained without the pair.
    """

    users: Tensor
    items: Tensor


def read_training_vectors(location: Location, graph: Manifest) -> TrainingVectors:
    """Return the training vectors of a `graph` that was trained with folds.

    Raises ArtifactMismatchError if the file differs from the manifest.
    """
    return TrainingVectors(**read_vectors(location, graph, TRAINING_VECTORS)[1])


def fold_numbers(users: npt.NDArray[np.int64], num_folds: int) -> npt.NDArray[np.int64]:
    """Return a fold from 0 to `num_folds` - 1 for each of P pairs, given their users (P,).

    Each user's pairs are spread over the folds, starting from one drawn for the user.
    """
    rng = np.random.default_rng(0)
    order = rng.permutation(len(users))
    order = order[np.argsort(users[order], kind="stable")]
    of_user = users[order]
    place = np.arange(len(users)) - np.searchsorted(of_user, of_user)
    first = rng.integers(num_folds, size=int(users.max(initial=-1)) + 1)
    folds = np.empty(len(users), dtype=np.int64)
    folds[order] = (place + first[of_user]) % num_folds
    return folds


def without_fold(dataset: Dataset, fold: int, num_folds: int) -> Dataset:
    """Return the dataset without the explained training pairs of a fold.

    No table or count includes their interactions or their reviews' aspects; explanations stay.
    """
    pairs = dataset.explained_pairs("train")
    of_fold = fold_numbers(edges_of(pairs)[0], num_folds) == fold
    gone = pair_keys(pairs)[of_fold]
    kept = {"interactions": _without(dataset.interactions, gone)}
    if dataset.aspects_from == "reviews" and dataset.explanation_aspects is not None:
        named = _without(dataset.explanation_aspects, gone)
        trained = named.filter(pc.equal(named["split"], "train"))
        kept |= {f"{side}_aspects": aspect_counts(trained, side) for side in ("user", "item")}
    elif dataset.item_aspects is not None:
        kept["user_aspects"] = visited_aspects(kept["interactions"], dataset.item_aspects)
    return replace(dataset, **kept)


def _without(table: pa.Table, gone: npt.NDArray[np.int64]) -> pa.Table:
    """Return the rows of a table of pairs that are held out or not in `gone`."""
    stays = ~np.isin(pair_keys(table), gone)
    return table.filter(pc.or_(pa.array(stays), pc.not_equal(table["split"], "train")))
