"""The graph artifact: a vector for each user, item and aspect, and a log of the training.

`embeddings.safetensors` holds the vectors, and `training_vectors.safetensors` those of training
pairs (xrec.graph.leave_out). `metrics.jsonl` has one JSON object for each epoch. Only the vectors
count for the fingerprint: two runs with equal vectors are the same graph.
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
from xrec.storage import (
    Location,
    Manifest,
    content_hash,
    read_content,
    read_manifest,
    write_manifest,
)

EMBEDDINGS = "embeddings.safetensors"
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class GraphEmbeddings:
    """The vectors by index: users (U, D), items (I, D) float32.

    `aspects` (A, D) float32 are those of the dataset's aspects, if the graph has them as nodes.
    """

    users: Tensor
    items: Tensor
    manifest: Manifest
    aspects: Tensor | None = None

    def check_finite(self) -> None:
        """Raise DataError if a vector holds NaN or infinity; the message names the first one."""
        for what, vectors in (("user", self.users), ("item", self.items), ("aspect", self.aspects)):
            if vectors is not None:
                check_finite(what, vectors)


def check_finite(what: str, vectors: Tensor) -> None:
    """Raise DataError if one of the `vectors` (N, D), of each `what`, holds NaN or infinity."""
    broken = ~torch.isfinite(vectors).all(dim=1)
    if bool(broken.any()):
        raise DataError(
            f"{int(broken.sum())} of {len(vectors)} {what} vectors of the graph are not finite, "
            f"the first has {what}_index {int(broken.nonzero()[0])}; train the graph again with a "
            "lower training.learning_rate"
        )


def embeddings_bytes(users: Tensor, items: Tensor, aspects: Tensor | None = None) -> bytes:
    """Return users (U, D), items (I, D) and aspects (A, D) as the content of a safetensors file."""
    tables = {"users": users, "items": items, "aspects": aspects}
    there = {name: table.contiguous() for name, table in tables.items() if table is not None}
    return bytes(safetensors.torch.save(there))


def write_graph(
    location: Location,
    embeddings: bytes,
    history: Sequence[Mapping[str, Any]],
    more: Mapping[str, bytes] | None = None,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    metrics: Mapping[str, Any],
) -> Manifest:
    """Write the artifact, its manifest last, and return the manifest.

    `embeddings` comes from `embeddings_bytes`; `history` has one row for each epoch. `more` are
    further files that the fingerprint depends on, by name.
    """
    tables = parse_embeddings(embeddings, str(location / EMBEDDINGS))
    files = {EMBEDDINGS: embeddings, **(more or {})}
    for name, content in files.items():
        (location / name).write_bytes(content)
    lines = "".join(json.dumps(row) + "\n" for row in history)
    (location / METRICS).write_bytes(lines.encode())
    return write_manifest(
        location,
        "graph",
        config=config,
        inputs=inputs,
        files={name: content_hash(content) for name, content in files.items()},
        row_counts={name: len(table) for name, table in tables.items()},
        metrics=metrics,
    )


def read_graph(location: Location) -> GraphEmbeddings:
    """Return the graph at `location`.

    Raises ArtifactNotFoundError if there is no finished graph. Raises ArtifactMismatchError if the
    artifact has another kind or schema version, or its file differs from what the manifest says.
    """
    manifest = read_manifest(location, "graph")
    data = read_content(location, manifest, EMBEDDINGS, remedy="make the graph again")
    tables = parse_embeddings(data, str(location / EMBEDDINGS))
    return GraphEmbeddings(manifest=manifest, **tables)


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
            "dataset"
        )


def parse_embeddings(data: bytes, name: str) -> dict[str, Tensor]:
    """Return users (U, D), items (I, D) and, if they are there, aspects (A, D) by name.

    `data` is the content of a safetensors file.

    Raises ArtifactMismatchError if it is no such file; the message calls the file `name`.
    """
    try:
        tensors = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise ArtifactMismatchError(
            f"{name}: not a readable safetensors file ({error}); make the graph again"
        ) from error
    if not {"users", "items"} <= set(tensors) <= {"users", "items", "aspects"}:
        raise ArtifactMismatchError(
            f"{name}: expected the tensors users and items, and maybe aspects, "
            f"saw {sorted(tensors)}; make the graph again"
        )
    return {table: tensors[table] for table in ("users", "items", "aspects") if table in tensors}
