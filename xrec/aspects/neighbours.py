"""Which items are alike, by their vectors in the graph of users, items and aspects.

The vectors are the spectral start of that graph (xrec.graph.spectral). Trained on, they rank items
better, but the words of an item's neighbours say less about the item (docs/log).
"""

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from xrec.aspects.mentions import Mentions, Sparse
from xrec.graph.adjacency import normalized_adjacency
from xrec.graph.aspects import AspectCounts, aspect_edges
from xrec.graph.spectral import spectral_embeddings

_EXPONENT = 0.25
_SCORES_PER_CHUNK = 2**26


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
