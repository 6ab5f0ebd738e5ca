"""The graph artifact: one vector for each user and item, `embeddings.safetensors`, and how training went, `metrics.jsonl`.

The vectors are its content; the metrics, one JSON object an epoch, are a log beside it: two runs with equal vectors are the same graph.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from xrec.errors import ArtifactMismatchError, DataError
from xrec.storage import Location, Manifest, content_hash, read_manifest, write_manifest

EMBEDDINGS = "embeddings.safetensors"
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class GraphEmbeddings:
    """Vectors by index: users (U, D), items (I, D) float32."""

    users: Tensor
    items: Tensor
    manifest: Manifest

    def check_finite(self) -> None:
        """Raise DataError, naming the first, if a user's or item's vector holds NaN or infinity."""
        for what, vectors in (("user", self.users), ("item", self.items)):
            broken = ~torch.isfinite(vectors).all(dim=1)
            if bool(broken.any()):
                raise DataError(
                    f"{int(broken.sum())} of {len(vectors)} {what} vectors of the graph are not finite, the first that of {what}_index "
                    f"{int(broken.nonzero()[0])}; train the graph again with a lower training.learning_rate"
                )


def embeddings_bytes(users: Tensor, items: Tensor) -> bytes:
    """users (U, D) and items (I, D) as a safetensors file."""
    return bytes(safetensors.torch.save({"users": users.contiguous(), "items": items.contiguous()}))


def write_graph(
    location: Location,
    embeddings: bytes,
    history: Sequence[Mapping[str, Any]],
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    metrics: Mapping[str, Any],
) -> Manifest:
    """Write the artifact, manifest last. `embeddings` as of `embeddings_bytes`; `history` has one row an epoch."""
    users, items = parse_embeddings(embeddings, str(location / EMBEDDINGS))
    (location / EMBEDDINGS).write_bytes(embeddings)
    (location / METRICS).write_bytes(metrics_lines(history))
    return write_manifest(
        location,
        "graph",
        config=config,
        inputs=inputs,
        files={EMBEDDINGS: content_hash(embeddings)},
        row_counts={"users": users.shape[0], "items": items.shape[0]},
        metrics=metrics,
    )


def metrics_lines(history: Sequence[Mapping[str, Any]]) -> bytes:
    """`metrics.jsonl`: a line for each row."""
    return "".join(json.dumps(row) + "\n" for row in history).encode()


def read_metrics(location: Location) -> list[dict[str, Any]]:
    """The rows of the `metrics.jsonl` at `location`; raises StorageNotFoundError."""
    return [json.loads(line) for line in (location / METRICS).read_text().splitlines()]


def read_graph(location: Location) -> GraphEmbeddings:
    """The graph at `location`.

    Raises ArtifactNotFoundError if there is no finished one, ArtifactMismatchError if it is of another kind or schema
    version, or its file is not what the manifest says.
    """
    manifest = read_manifest(location, "graph")
    data = (location / EMBEDDINGS).read_bytes()
    if content_hash(data) != manifest.files[EMBEDDINGS]:
        raise ArtifactMismatchError(
            f"{location / EMBEDDINGS}: its content is not what the manifest says; make the graph again"
        )
    users, items = parse_embeddings(data, str(location / EMBEDDINGS))
    return GraphEmbeddings(users, items, manifest)


def check_graph_of_dataset(
    graph: Manifest, dataset: Manifest, graph_uri: str, dataset_uri: str
) -> None:
    """Raise ArtifactMismatchError unless the graph was trained on the dataset: its vectors are found by the dataset's indices."""
    if graph.inputs["dataset"] != dataset.fingerprint:
        raise ArtifactMismatchError(
            f"{graph_uri}: trained on dataset {graph.inputs['dataset']}, but {dataset_uri} is {dataset.fingerprint}; "
            "indices would not fit: train the graph again, or give its dataset"
        )


def parse_embeddings(data: bytes, name: str) -> tuple[Tensor, Tensor]:
    """users (U, D), items (I, D) of a safetensors file's content; raises ArtifactMismatchError, naming it `name`."""
    try:
        tensors = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise ArtifactMismatchError(
            f"{name}: not a readable safetensors file ({error}); make the graph again"
        ) from error
    if set(tensors) != {"users", "items"}:
        raise ArtifactMismatchError(
            f"{name}: expected the tensors users and items, saw {sorted(tensors)}; make the graph again"
        )
    return tensors["users"], tensors["items"]
