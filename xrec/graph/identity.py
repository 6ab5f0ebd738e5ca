"""A graph's identity, its settings and inputs, from manifests alone, without torch."""

from typing import Any

from xrec.config import PretrainGraphConfig, identity_of
from xrec.data import EXTENDS
from xrec.errors import ArtifactMismatchError
from xrec.storage import Manifest, ancestry, location_of, open_location, read_manifest

LAYER0 = "layer0.safetensors"
START_FROM = "start_from"
"""Metric with the fingerprints of the graphs that this one started from, newest first."""


def graph_identity(config: PretrainGraphConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings that the graph's content depends on, and the inputs' fingerprints.

    Raises ArtifactNotFoundError if the dataset or the graph to start from is missing, and
    ArtifactMismatchError if that graph does not fit.
    """
    dataset = read_manifest(location_of(config, "dataset"), "dataset")
    inputs = {"dataset": dataset.fingerprint}
    if config.start_from is not None:
        inputs[START_FROM] = _check_start(config, config.start_from, dataset).fingerprint
    return identity_of(config), inputs


def _check_start(config: PretrainGraphConfig, uri: str, dataset: Manifest) -> Manifest:
    """Return the manifest of the graph at `uri`, after checking that its vectors can be used."""
    earlier = read_manifest(open_location(uri, config.storage), "graph")
    dim, known = earlier.config["model"]["embedding_dim"], earlier.inputs["dataset"]
    if known not in ancestry(dataset, EXTENDS):
        saw, why = known, f"of dataset {known}, which {config.artifact('dataset')} doesn't extend"
    elif dim != config.model.embedding_dim:
        saw, why = (
            dim,
            f"of {dim} dimensions, and model.embedding_dim is {config.model.embedding_dim}",
        )
    elif LAYER0 not in earlier.files:
        saw, why = None, f"of an older xrec, without {LAYER0}"
    else:
        return earlier
    raise ArtifactMismatchError(
        f"start_from: the graph at {uri} is {why}; use another one, or remove start_from",
        code="start_does_not_fit",
        key="start_from",
        saw=saw,
    )


def check_graph_of_dataset(
    graph: Manifest, dataset: Manifest, graph_uri: str, dataset_uri: str
) -> None:
    """Raise ArtifactMismatchError unless the graph was trained on the dataset.

    The dataset's indices select the graph's vectors.
    """
    if graph.inputs["dataset"] != dataset.fingerprint:
        raise ArtifactMismatchError(
            f"{graph_uri} was trained on dataset {graph.inputs['dataset']}, but {dataset_uri} is "
            f"{dataset.fingerprint}, whose indices differ; retrain the graph, or use its dataset",
            code="graph_of_another_dataset",
            key="dataset",
            saw=graph.inputs["dataset"],
        )
