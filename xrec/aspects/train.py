"""The recipe: a dataset with aspects in, the aspects artifact out, in one process.

Which items are alike tell their vectors in the graph of users, items and aspects: the spectral
start of that graph (xrec.graph.spectral). Trained on, the vectors rank items better, but the words
of an item's neighbours say less about the item (docs/log). Held-out reviews of the validation train
the score's numbers; those of the test are scored once, for the manifest.
"""

import logging

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from xrec.aspects.artifact import aspects_identity, write_aspects
from xrec.aspects.fit import Figures, evaluate, fit
from xrec.aspects.mentions import Mentions, Sparse, dataset_mentions, dataset_praise
from xrec.aspects.scorer import AspectScorer
from xrec.config import TrainAspectsConfig
from xrec.data.dataset import Dataset, read_dataset
from xrec.errors import DataError
from xrec.graph.adjacency import normalized_adjacency
from xrec.graph.aspects import AspectCounts, aspect_edges
from xrec.graph.spectral import spectral_embeddings
from xrec.storage import Manifest, location_of

logger = logging.getLogger("xrec")

# Of the vectors by whose angle items are near, and how many items count as near.
_EMBEDDING_DIM, _NUM_NEIGHBOURS = 64, 100
_SEED = 0  # of the vectors and of the other users
_EXPONENT = 0.25
_SCORES_PER_CHUNK = 2**26


def train_aspects(config: TrainAspectsConfig) -> Manifest:
    """Train the score, write the artifact, return its manifest.

    Without aspects in validation pairs the weights stay the default ones, and a warning says so.
    Raises ArtifactNotFoundError without a dataset, DataError if its training pairs have no aspects
    or praise none, or fewer reviews an item than `config.min_item_reviews`.
    """
    settings, inputs = aspects_identity(config)
    dataset = read_dataset(location_of(config, "dataset"))
    if dataset.aspects_from == "profiles" and config.min_item_reviews > 1:
        raise DataError(
            f"min_item_reviews is {config.min_item_reviews}, and the dataset's aspects are from "
            "profiles, of which an item has one; set it to 1",
            code="too_many_reviews",
            key="min_item_reviews",
            saw=config.min_item_reviews,
        )
    train, validation, test = (
        dataset_mentions(dataset, split) for split in ("train", "validation", "test")
    )
    scorer, of_validation = _fit(train, validation)
    _check_praise(dataset)
    of_test = evaluate(scorer, test, seed=_SEED) if test.aspects.nnz else {}
    metrics = {"validation": of_validation, "test": of_test}
    for split, figures in metrics.items():
        logger.info("%s: %s", split, figures or "no review mentions an aspect")
    location = location_of(config, "aspects")
    return write_aspects(location, scorer, config=settings, inputs=inputs, metrics=metrics)


def _fit(train: Mentions, validation: Mentions) -> tuple[AspectScorer, Figures]:
    """The trained score, and its figures on the validation."""
    if not train.aspects.nnz:
        raise DataError(
            f"none of the {len(train.users)} training pairs has an aspect; annotate more reviews",
            code="no_mentions",
            saw=len(train.users),
        )
    vectors = item_vectors(train, embedding_dim=_EMBEDDING_DIM, seed=_SEED)
    neighbours = nearest_items(vectors, _NUM_NEIGHBOURS)
    if not validation.aspects.nnz:
        logger.warning(
            "none of the %d validation pairs has an aspect: the score is not trained and keeps its "
            "default weights",
            len(validation.users),
        )
        return AspectScorer(train, neighbours), {}
    return fit(train, validation, neighbours, seed=_SEED)


def _check_praise(dataset: Dataset) -> None:
    """Raise DataError if no aspect could ever be chosen."""
    praise = dataset_praise(dataset)
    if praise is not None and not (praise.margins > 0).nnz:
        raise DataError(
            "no aspect of an item is praised by more training reviews than blame it, so none "
            "can be chosen; annotate more reviews",
            code="no_praise",
        )


def item_vectors(mentions: Mentions, *, embedding_dim: int, seed: int = 0) -> Tensor:
    """Return unit vectors (I, D) float32 of the items; zero for an item without a review."""
    num_users, num_items = mentions.num_users, mentions.num_items
    edges = torch.from_numpy(np.stack([mentions.users, mentions.items]))
    aspects = aspect_edges(
        _counts(mentions.of_users),
        _counts(mentions.of_items),
        num_users=num_users,
        num_items=num_items,
        num_aspects=mentions.num_aspects,
    )
    matrix = normalized_adjacency(edges, num_users, num_items, exponent=_EXPONENT, aspects=aspects)
    vectors = spectral_embeddings(
        matrix, num_users, embedding_dim, num_aspects=mentions.num_aspects, seed=seed
    )
    items = torch.nn.functional.normalize(vectors[num_users : num_users + num_items], dim=1)
    items[torch.from_numpy(mentions.reviews_of_items == 0)] = 0
    return items


def nearest_items(vectors: Tensor, num_neighbours: int) -> Sparse:
    """Return the cosines (I, I), sparse float32, of each item's nearest ones, those above 0.

    vectors: (I, D), of length 1 or 0. The time is O(I^2 D), in blocks of rows.
    """
    num_items = len(vectors)
    count = min(num_neighbours, num_items - 1)
    if count < 1:
        return scipy.sparse.csr_matrix((num_items, num_items), dtype=np.float32)
    blocks = []
    for rows in torch.arange(num_items).split(max(1, _SCORES_PER_CHUNK // num_items)):
        cosines = vectors[rows] @ vectors.T
        cosines[torch.arange(len(rows)), rows] = -1
        best = cosines.topk(count, dim=1)
        ends = np.arange(0, (len(rows) + 1) * count, count)
        blocks.append(
            scipy.sparse.csr_matrix(
                (best.values.clamp(min=0).flatten().numpy(), best.indices.flatten().numpy(), ends),
                shape=(len(rows), num_items),
            )
        )
    nearest = scipy.sparse.vstack(blocks, format="csr")
    nearest.eliminate_zeros()
    return nearest


def _counts(counts: Sparse) -> AspectCounts:
    found = counts.tocoo()
    parts = (found.row, found.col, found.data)
    return AspectCounts(*(torch.from_numpy(part.astype(np.int64)) for part in parts))
