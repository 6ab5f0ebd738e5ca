"""Make the artifact of neighbors: build them, and fit their weight on the validation pairs."""

import logging

import numpy as np
import torch

from xrec.config import NeighborsConfig
from xrec.graph.artifact import read_dataset_and_graph
from xrec.graph.ranking import seen_items
from xrec.neighbors.artifact import WEIGHT, neighbors_identity, write_neighbors
from xrec.neighbors.build import build
from xrec.neighbors.scores import NeighborScores, fit_weight
from xrec.storage import Manifest, location_of

logger = logging.getLogger("xrec")


def make_neighbors(config: NeighborsConfig) -> Manifest:
    """Count who chose what together, write the artifact, and return its manifest.

    Raises what `neighbors_identity` raises, and ArtifactMismatchError if another run's artifact is
    at the output.
    """
    settings, inputs = neighbors_identity(config)
    dataset, graph = read_dataset_and_graph(config)
    edges = dataset.interaction_edges("train")
    found = build(edges, dataset.num_users, dataset.num_items)
    seen = seen_items(dataset)
    held_out = torch.from_numpy(dataset.interaction_edges("validation"))
    scores = NeighborScores(found.starts, found.targets, found.weights, seen)
    weight, recalls = fit_weight(graph.users, graph.items, scores, seen, held_out)
    logger.info("neighbors: %d pairs of items, weight %.3g", len(found.targets), weight)
    return write_neighbors(
        location_of(config, "neighbors"),
        found,
        np.bincount(edges[1], minlength=dataset.num_items),
        config=settings,
        inputs=inputs,
        metrics={
            WEIGHT: weight,
            "validation_recall@20": {f"{tried:.6g}": value for tried, value in recalls.items()},
        },
    )
