"""The graph of which user interacted with which item, and the vectors that are learned from it.

This package has the parts of LightGCN, its losses and negatives, ranking, fold-in of new users and
items, and the artifact of the vectors. `xrec.train` puts the parts together.
"""

from xrec.graph.adjacency import check_edges, node_degrees, normalized_adjacency
from xrec.graph.artifact import (
    EMBEDDINGS,
    GraphEmbeddings,
    check_graph_of_dataset,
    embeddings_bytes,
    parse_embeddings,
    read_graph,
    write_graph,
)
from xrec.graph.aspects import (
    NO_ASPECTS,
    AspectCounts,
    AspectEdges,
    aspect_edges,
    check_aspects,
    dataset_aspect_edges,
)
from xrec.graph.blend import blend
from xrec.graph.lightgcn import LightGCN, random_embeddings
from xrec.graph.loss import bpr_loss, l2_penalty, sampled_softmax_loss, scoring_vectors
from xrec.graph.metrics import metric_names, ranking_metrics, ranking_report, users_with_items
from xrec.graph.objective import BPR, Objective, SampledSoftmax
from xrec.graph.partition import Partition, RowBlocks
from xrec.graph.ranking import SeenItems, recommend, top_k_items
from xrec.graph.sampling import Batch, MicroBatch, NegativeSampler, epoch_batches
from xrec.graph.spectral import spectral_embeddings, truncated_eigenvectors, truncated_svd
from xrec.graph.step import batch_loss, layer0_penalty

__all__ = [
    "AspectCounts",
    "AspectEdges",
    "BPR",
    "Batch",
    "EMBEDDINGS",
    "GraphEmbeddings",
    "LightGCN",
    "MicroBatch",
    "NO_ASPECTS",
    "NegativeSampler",
    "Objective",
    "Partition",
    "RowBlocks",
    "SampledSoftmax",
    "SeenItems",
    "aspect_edges",
    "batch_loss",
    "blend",
    "bpr_loss",
    "check_aspects",
    "check_edges",
    "check_graph_of_dataset",
    "dataset_aspect_edges",
    "embeddings_bytes",
    "epoch_batches",
    "l2_penalty",
    "layer0_penalty",
    "metric_names",
    "node_degrees",
    "normalized_adjacency",
    "parse_embeddings",
    "random_embeddings",
    "ranking_metrics",
    "ranking_report",
    "read_graph",
    "recommend",
    "sampled_softmax_loss",
    "scoring_vectors",
    "spectral_embeddings",
    "top_k_items",
    "truncated_eigenvectors",
    "truncated_svd",
    "users_with_items",
    "write_graph",
]
