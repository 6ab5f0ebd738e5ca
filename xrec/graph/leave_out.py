"""Graphs without some of the pairs that they are to explain, and what their vectors are of these.

A vector that was trained on a pair knows it, and that of a pair which is held out does not: an
adapter that learns from the former learns to trust what it will not get. So the explained training
pairs are divided into folds (cross-fitting), and for each fold a graph is trained without its
interactions and reviews. The vectors of another graph are turned onto those of the whole one:
vectors of two trainings differ by a rotation, among others.
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
    """The vectors of the P explained training pairs of a dataset, in its order.

    users, items: (P, D) float32, of graphs that were trained without the pair.
    """

    users: Tensor
    items: Tensor


def read_training_vectors(location: Location, graph: Manifest) -> TrainingVectors:
    """The vectors beside the `graph`, which was trained with folds.

    Raises ArtifactMismatchError if the file is not that of the manifest.
    """
    return TrainingVectors(**read_vectors(location, graph, TRAINING_VECTORS)[1])


def fold_numbers(users: npt.NDArray[np.int64], num_folds: int) -> npt.NDArray[np.int64]:
    """A fold from 0 to `num_folds` - 1 for each of P pairs, by their users (P,).

    The pairs of a user are spread over the folds, from one on that is drawn for the user.
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
    """The dataset as if the explained training pairs of a fold were not there.

    Their interactions and their reviews' aspects are in no table and no count; explanations stay.
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
    """The rows of a table of pairs that are not in `gone`, or are held out."""
    stays = ~np.isin(pair_keys(table), gone)
    return table.filter(pc.or_(pa.array(stays), pc.not_equal(table["split"], "train")))
