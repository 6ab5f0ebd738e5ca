"""Make the artifact of neighbors: build them, and fit their weight on the validation pairs."""

import logging
from dataclasses import asdict, replace

import numpy as np
import torch

from xrec.config import NeighborsConfig
from xrec.data import read_dataset
from xrec.neighbors.artifact import WEIGHT, read_graph_if_any, write_neighbors
from xrec.neighbors.build import build, pair_matrix
from xrec.neighbors.identity import neighbors_identity
from xrec.neighbors.scores import RELATIVE_WEIGHTS, NeighborScores, fit, histories
from xrec.storage import Manifest, finished, location_of

logger = logging.getLogger("xrec")


def make_neighbors(config: NeighborsConfig) -> Manifest:
    """Count who chose what together, write the artifact, and return its manifest.

    If these neighbors exist, their manifest is returned at once. Raises what `neighbors_identity`
    raises, and ArtifactMismatchError if another run's artifact is at the output.
    """
    location, (settings, inputs) = location_of(config, "neighbors"), neighbors_identity(config)
    if (done := finished(location, "neighbors", settings, inputs)) is not None:
        return done
    dataset = read_dataset(location_of(config, "dataset"))
    graph = read_graph_if_any(config, dataset)
    history, num_items = histories(dataset), dataset.num_items
    found = build(history.edges.numpy(), dataset.num_users, num_items)
    num_people = np.bincount(history.edges[1].numpy(), minlength=num_items)
    tried = fit(
        graph.users,
        graph.items,
        NeighborScores(pair_matrix(found.starts, found.targets, found.weights), history),
        torch.from_numpy(num_people),
        history,
        torch.from_numpy(dataset.interaction_edges("validation")),
        relative=RELATIVE_WEIGHTS if "graph" in inputs else (1.0,),  # without vectors, any weight
    )
    best = tried[0]
    factors = np.maximum(num_people, 1) ** (0.5 - best.power)
    found = replace(found, weights=(found.weights * factors[found.targets]).astype(np.float32))
    logger.info("neighbors: %d pairs of items, weight %.3g", len(found.targets), best.weight)
    return write_neighbors(
        location,
        found,
        num_people,
        config=settings,
        inputs=inputs,
        metrics={WEIGHT: best.weight, "tried": [asdict(each) for each in tried]},
    )
