"""The graph of who interacted with what: LightGCN's parts, negatives, ranking, and the artifact of its vectors."""

from xrec.graph.adjacency import check_edges, normalized_adjacency
from xrec.graph.artifact import EMBEDDINGS, GraphEmbeddings, embeddings_bytes, parse_embeddings, read_graph, write_graph
from xrec.graph.lightgcn import LightGCN
from xrec.graph.loss import bpr_loss, l2_penalty
from xrec.graph.metrics import ranking_metrics, users_with_items
from xrec.graph.ranking import SeenItems, recommend, top_k_items
from xrec.graph.sampling import NegativeSampler, Triples, epoch_triples

__all__ = [
    "EMBEDDINGS",
    "GraphEmbeddings",
    "LightGCN",
    "NegativeSampler",
    "SeenItems",
    "Triples",
    "bpr_loss",
    "check_edges",
    "embeddings_bytes",
    "epoch_triples",
    "l2_penalty",
    "normalized_adjacency",
    "parse_embeddings",
    "ranking_metrics",
    "read_graph",
    "recommend",
    "top_k_items",
    "users_with_items",
    "write_graph",
]
