"""Which run a graph is of: settings and inputs, known by manifests alone, without torch."""

from typing import Any

from xrec.config import PretrainGraphConfig, identity_of
from xrec.data import EXTENDS
from xrec.errors import ArtifactMismatchError
from xrec.storage import Manifest, ancestry, location_of, open_location, read_manifest

LAYER0 = "layer0.safetensors"
START_FROM = "start_from"
"""Among the metrics: the fingerprints of the graphs that this one started from, the last first."""


def graph_identity(config: PretrainGraphConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings that the graph's content depends on, and the inputs' fingerprints.

    Raises ArtifactNotFoundError without a dataset, or without the graph that it starts from;
    ArtifactMismatchError if that does not fit.
    """
    dataset = read_manifest(location_of(config, "dataset"), "dataset")
    inputs = {"dataset": dataset.fingerprint}
    if config.start_from is not None:
        inputs[START_FROM] = _check_start(config, config.start_from, dataset).fingerprint
    return identity_of(config), inputs


def _check_start(config: PretrainGraphConfig, uri: str, dataset: Manifest) -> Manifest:
    """The manifest of the graph at `uri`, whose vectors have the indices and the length of ours."""
    earlier = read_manifest(open_location(uri, config.storage), "graph")
    dim, known = earlier.config["model"]["embedding_dim"], earlier.inputs["dataset"]
    if known not in ancestry(dataset, EXTENDS):
        saw, why = known, f"of dataset {known}, which {config.artifact('dataset')} does not extend"
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
        f"start_from: the graph at {uri} is {why}; give one that fits, or leave start_from out",
        code="start_does_not_fit",
        key="start_from",
        saw=saw,
    )


def check_graph_of_dataset(
    graph: Manifest, dataset: Manifest, graph_uri: str, dataset_uri: str
) -> None:
    """Raise ArtifactMismatchError unless the graph was trained on the dataset.

    The dataset's indices find the graph's vectors, so the two must belong together.
    """
    if graph.inputs["dataset"] != dataset.fingerprint:
        raise ArtifactMismatchError(
            f"{graph_uri}: trained on dataset {graph.inputs['dataset']}, but {dataset_uri} is "
            f"{dataset.fingerprint}; indices would not fit: train the graph again, or give its "
            "dataset",
            code="graph_of_another_dataset",
            key="dataset",
            saw=graph.inputs["dataset"],
        )
