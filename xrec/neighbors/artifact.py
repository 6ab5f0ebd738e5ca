"""The artifact of neighbors: their weights, and lower bounds of how many people chose both items.

`neighbors.safetensors` holds, by history item j (xrec.neighbors.build): starts (I + 1,) int64,
targets (N,) int32, weights (N,) float32, bounds (N,) int32; and item_bounds (I,) int32, of how many
people chose each item. Exact numbers of people are not written anywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
import torch

from xrec.config import JobConfig
from xrec.data import Dataset
from xrec.graph.artifact import GraphEmbeddings, read_graph
from xrec.graph.ranking import SeenItems
from xrec.neighbors.build import Neighbors, pair_matrix
from xrec.neighbors.identity import find_neighbors, ranking_manifests
from xrec.neighbors.scores import NeighborScores
from xrec.neighbors.steps import lower_bounds
from xrec.storage import (
    Arrays,
    Location,
    Manifest,
    location_of,
    mapped_arrays,
    read_content,
    write_contents,
    write_manifest,
)

NEIGHBORS = "neighbors.safetensors"
WEIGHT = "weight"
"""The name of b among the manifest's metrics."""

Ints = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class NeighborTable:
    """The arrays of the artifact, mapped, and b."""

    arrays: Arrays
    weight: float
    manifest: Manifest

    @property
    def item_bounds(self) -> npt.NDArray[np.int32]:
        """Lower bounds of how many people chose each item, (I,) int32; 0 below the least step."""
        return self.arrays["item_bounds"]

    @property
    def has_vectors(self) -> bool:
        """Whether vectors of a graph rank beside the neighbors."""
        return "graph" in self.manifest.inputs

    def scores(self, history: SeenItems) -> NeighborScores:
        """Return b times the sums over the histories of users."""
        return NeighborScores(self._weights, history, self.weight)

    def weighted(self, history: Ints, items: Ints) -> npt.NDArray[np.float32]:
        """Return b w_ji of each pair of `history` and `items`, (M,) float32."""
        return np.float32(self.weight) * _of_pairs(self._weights, history, items)

    def bounds(self, history: Ints, items: Ints) -> npt.NDArray[np.int32]:
        """Return lower bounds of how many people chose both of each pair, (M,) int32."""
        return _of_pairs(self._bounds, history, items)

    @cached_property
    def _weights(self) -> Any:
        return self._matrix("weights")

    @cached_property
    def _bounds(self) -> Any:
        return self._matrix("bounds")

    def _matrix(self, name: str) -> Any:
        return pair_matrix(self.arrays["starts"], self.arrays["targets"], self.arrays[name])


def _of_pairs(matrix: Any, history: Ints, items: Ints) -> npt.NDArray[Any]:
    places = np.array(history), np.array(items)  # SciPy needs arrays that can be written
    return np.asarray(matrix[places]) if len(history) else matrix.data[:0]


def write_neighbors(
    location: Location,
    found: Neighbors,
    people_of_items: npt.NDArray[np.int64],
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    metrics: Mapping[str, Any],
) -> Manifest:
    """Write the artifact, its manifest last, and return the manifest.

    people_of_items: (I,), how many people chose each item. `config` has `min_people`, and `metrics`
    has b under `WEIGHT`.
    """
    least = config["min_people"]
    arrays = {
        "starts": found.starts.astype(np.int64),
        "targets": found.targets,
        "weights": found.weights,
        "bounds": lower_bounds(found.num_people, least),
        "item_bounds": lower_bounds(people_of_items, least),
    }
    files = write_contents(location, {NEIGHBORS: safetensors.numpy.save(arrays)})
    return write_manifest(
        location,
        "neighbors",
        config=config,
        inputs=inputs,
        files=files,
        row_counts={"items": len(people_of_items), "pairs": len(found.targets)},
        metrics=metrics,
    )


def read_neighbors(config: JobConfig) -> NeighborTable | None:
    """Return the neighbors of a project, mapped; None if it has none.

    Raises what `ranking_manifests` and `find_neighbors` raise.
    """
    if (manifest := find_neighbors(config, ranking_manifests(config))) is None:
        return None
    location = location_of(config, "neighbors")

    def read() -> Arrays:
        remedy = "run xrec neighbors again"
        content = read_content(location, manifest, NEIGHBORS, remedy=remedy)
        return dict(safetensors.numpy.load(content))

    arrays = mapped_arrays(manifest.files[NEIGHBORS], read)
    return NeighborTable(arrays, float(manifest.metrics[WEIGHT]), manifest)


def read_graph_if_any(config: JobConfig, dataset: Dataset) -> GraphEmbeddings:
    """Return the graph; if there is none, vectors of zeros, so that neighbors alone rank.

    Raises what `ranking_manifests` and `read_graph` raise.
    """
    if "graph" in ranking_manifests(config):
        return read_graph(location_of(config, "graph"))
    users, items = (torch.zeros(size, 1) for size in (dataset.num_users, dataset.num_items))
    return GraphEmbeddings(users, items, dataset.manifest)
