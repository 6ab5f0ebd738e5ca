"""What neighbors depend on, known by manifests alone, without torch."""

from typing import Any

from xrec.config import JobConfig, NeighborsConfig, identity_of
from xrec.errors import ArtifactMismatchError
from xrec.graph.identity import check_graph_of_dataset
from xrec.storage import Manifest, find_manifest, location_of, manifest_of

_VERSION = 1


def ranking_inputs(config: JobConfig) -> dict[str, str]:
    """Return the fingerprints of the dataset and, if there is one, the graph.

    Raises ArtifactNotFoundError without a dataset, ArtifactMismatchError if the graph is of
    another one.
    """
    dataset, graph = (
        manifest_of(config, "dataset"),
        find_manifest(location_of(config, "graph"), "graph"),
    )
    inputs = {"dataset": dataset.fingerprint}
    if graph is not None:
        check_graph_of_dataset(graph, dataset, config.artifact("graph"), config.artifact("dataset"))
        inputs["graph"] = graph.fingerprint
    return inputs


def neighbors_identity(config: NeighborsConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings and inputs of neighbors; raises what `ranking_inputs` raises."""
    return identity_of(config) | {"neighbors_version": _VERSION}, ranking_inputs(config)


def find_neighbors(config: JobConfig) -> Manifest | None:
    """Return the manifest of a project's neighbors; None if it has none.

    Raises ArtifactMismatchError if they were made from another dataset or graph.
    """
    location = location_of(config, "neighbors")
    manifest = find_manifest(location, "neighbors")
    if manifest is not None and manifest.inputs != (wanted := ranking_inputs(config)):
        raise ArtifactMismatchError(
            f"{location}: made from {manifest.inputs}, but the project has {wanted}; delete it, "
            "or run xrec run CONFIG --redo",
            code="other_inputs",
            key="neighbors",
            saw=str(manifest.inputs),
        )
    return manifest
