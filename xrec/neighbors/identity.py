"""What neighbors depend on, known by manifests alone, without torch."""

from collections.abc import Mapping
from typing import Any

from xrec.config import JobConfig, NeighborsConfig, identity_of
from xrec.errors import ArtifactMismatchError
from xrec.graph.identity import check_graph_of_dataset
from xrec.storage import Manifest, find_manifest, location_of, manifest_of

_VERSION = 1


def ranking_manifests(config: JobConfig) -> dict[str, Manifest]:
    """Return the manifests of the dataset and, if there is one, the graph.

    Raises ArtifactNotFoundError without a dataset, ArtifactMismatchError if the graph is of
    another one.
    """
    dataset, graph = (
        manifest_of(config, "dataset"),
        find_manifest(location_of(config, "graph"), "graph"),
    )
    if graph is None:
        return {"dataset": dataset}
    check_graph_of_dataset(graph, dataset, config.artifact("graph"), config.artifact("dataset"))
    return {"dataset": dataset, "graph": graph}


def fingerprints(manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """Return the fingerprint of each manifest."""
    return {name: manifest.fingerprint for name, manifest in manifests.items()}


def neighbors_identity(config: NeighborsConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings and inputs of neighbors; raises what `ranking_manifests` raises."""
    settings = identity_of(config) | {"neighbors_version": _VERSION}
    return settings, fingerprints(ranking_manifests(config))


def find_neighbors(config: JobConfig, manifests: Mapping[str, Manifest]) -> Manifest | None:
    """Return the manifest of a project's neighbors; None if it has none.

    manifests: those of `ranking_manifests`. Raises ArtifactMismatchError if the neighbors were made
    from another dataset or graph.
    """
    location, wanted = location_of(config, "neighbors"), fingerprints(manifests)
    manifest = find_manifest(location, "neighbors")
    if manifest is not None and manifest.inputs != wanted:
        raise ArtifactMismatchError(
            f"{location}: made from {manifest.inputs}, but the project has {wanted}; delete it, "
            "or run xrec run CONFIG --redo",
            code="other_inputs",
            key="neighbors",
            saw=str(manifest.inputs),
        )
    return manifest
