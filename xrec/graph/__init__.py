"""The graph of which user interacted with which item, and the vectors that are learned from it.

This package has the parts of LightGCN, its losses and negatives, ranking, fold-in of new users and
items, and the artifact of the vectors. `xrec.train` puts the parts together.
"""

from xrec.graph.adjacency import check_edges, node_degrees, normalized_adjacency
from xrec.graph.artifact import embeddings_bytes, read_graph, write_graph
from xrec.graph.aspects import AspectCounts, AspectEdges, aspect_edges, check_aspects
from xrec.graph.blend import blend
from xrec.graph.lightgcn import LightGCN
from xrec.graph.partition import Partition
from xrec.graph.ranking import SeenItems, ranking_metrics, users_with_items
from xrec.graph.sampling import NegativeSampler, epoch_batches
from xrec.graph.spectral import spectral_embeddings
from xrec.graph.step import batch_loss, layer0_penalty

__all__ = [
    "AspectCounts",
    "AspectEdges",
    "LightGCN",
    "NegativeSampler",
    "Partition",
    "SeenItems",
    "aspect_edges",
    "batch_loss",
    "blend",
    "check_aspects",
    "check_edges",
    "embeddings_bytes",
    "epoch_batches",
    "layer0_penalty",
    "node_degrees",
    "normalized_adjacency",
    "ranking_metrics",
    "read_graph",
    "spectral_embeddings",
    "users_with_items",
    "write_graph",
]
