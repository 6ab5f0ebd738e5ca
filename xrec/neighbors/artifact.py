"""The artifact of neighbors: their weights, and lower bounds of how many people chose both items.

`neighbors.safetensors` holds, by history item j (xrec.neighbors.build): starts (I + 1,) int64,
targets (N,) int32, weights (N,) float32, bounds (N,) int32; and item_bounds (I,) int32, of how many
people chose each item. Exact numbers of people are not written anywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
import scipy.sparse as sp

from xrec.config import JobConfig, NeighborsConfig, identity_of
from xrec.data.dataset import Dataset
from xrec.errors import ArtifactMismatchError
from xrec.graph.identity import check_graph_of_dataset
from xrec.graph.ranking import SeenItems
from xrec.neighbors.build import Neighbors
from xrec.neighbors.scores import NeighborScores
from xrec.neighbors.steps import lower_bounds
from xrec.storage import (
    Arrays,
    Location,
    Manifest,
    location_of,
    manifest_of,
    mapped_arrays,
    read_content,
    read_manifest,
    write_contents,
    write_manifest,
)

NEIGHBORS = "neighbors.safetensors"
WEIGHT = "weight"
"""The name of b among the manifest's metrics."""
_VERSION = 1

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

    def scores(self, seen: SeenItems) -> NeighborScores:
        """Return the sums over the histories `seen`."""
        arrays = self.arrays
        return NeighborScores(arrays["starts"], arrays["targets"], arrays["weights"], seen)

    def weighted(self, history: Ints, items: Ints) -> npt.NDArray[np.float32]:
        """Return b w_ji of each pair of `history` and `items`, (M,) float32."""
        return np.float32(self.weight) * self._of_pairs("weights", history, items)

    def bounds(self, history: Ints, items: Ints) -> npt.NDArray[np.int32]:
        """Return lower bounds of how many people chose both of each pair, (M,) int32."""
        return self._of_pairs("bounds", history, items)

    def _of_pairs(self, name: str, history: Ints, items: Ints) -> npt.NDArray[Any]:
        num_items = len(self.item_bounds)
        parts = self.arrays[name], self.arrays["targets"], self.arrays["starts"]
        matrix = sp.csr_array(parts, shape=(num_items, num_items))
        places = np.array(history), np.array(items)  # SciPy needs arrays that can be written
        return np.asarray(matrix[places]) if len(history) else parts[0][:0]


def neighbors_identity(config: NeighborsConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings that the content depends on, and the fingerprints of its inputs.

    Raises ArtifactNotFoundError without dataset or graph, ArtifactMismatchError if the graph is of
    another dataset.
    """
    dataset, graph = manifest_of(config, "dataset"), manifest_of(config, "graph")
    check_graph_of_dataset(graph, dataset, config.artifact("graph"), config.artifact("dataset"))
    inputs = {"dataset": dataset.fingerprint, "graph": graph.fingerprint}
    return identity_of(config) | {"neighbors_version": _VERSION}, inputs


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


def read_neighbors(config: JobConfig, dataset: Dataset, graph: Manifest) -> NeighborTable:
    """Return the neighbors of a project, mapped.

    Raises ArtifactNotFoundError if they are not there, ArtifactMismatchError if they were made from
    another dataset or graph.
    """
    location = location_of(config, "neighbors")
    manifest = read_manifest(location, "neighbors")
    wanted = {"dataset": dataset.manifest.fingerprint, "graph": graph.fingerprint}
    if manifest.inputs != wanted:
        raise ArtifactMismatchError(
            f"{location}: made from {manifest.inputs}, but the project has {wanted}; run "
            "`xrec neighbors` again",
            code="another_dataset",
            key="neighbors",
            saw=str(manifest.inputs),
        )

    def read() -> Arrays:
        remedy = "run `xrec neighbors` again"
        content = read_content(location, manifest, NEIGHBORS, remedy=remedy)
        return dict(safetensors.numpy.load(content))

    arrays = mapped_arrays(manifest.files[NEIGHBORS], read)
    return NeighborTable(arrays, float(manifest.metrics[WEIGHT]), manifest)
