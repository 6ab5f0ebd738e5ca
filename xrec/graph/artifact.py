"""The graph artifact: a vector for each user, item, and aspect, and a training log.

`embeddings.safetensors` has the vectors, `layer0.safetensors` the layer-0 embeddings, from which a
later graph starts, and `training_vectors.safetensors` the vectors of training pairs
(xrec.graph.leave_out). `metrics.jsonl` has one JSON object per epoch. The fingerprint covers only
the vectors, so two runs with equal vectors make the same graph.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from xrec.config import JobConfig
from xrec.data import Dataset, read_dataset
from xrec.errors import DataError
from xrec.graph.identity import check_graph_of_dataset
from xrec.storage import (
    Location,
    Manifest,
    location_of,
    map_file,
    open_location,
    read_manifest,
    write_manifest,
)

EMBEDDINGS = "embeddings.safetensors"
METRICS = "metrics.jsonl"
_ROOM_BYTES = 2**28  # a sparse hole for a million more users of 64 numbers


@dataclass(frozen=True)
class GraphEmbeddings:
    """The vectors by index: users (U, D), items (I, D), float32.

    `aspects` (A, D) float32 are those of the dataset's aspects, if they are nodes of the graph.
    Vectors that were read are mapped copy-on-write from `file` on this node, which has room for
    more users.
    """

    users: Tensor
    items: Tensor
    manifest: Manifest
    aspects: Tensor | None = None
    file: Path | None = None

    def with_more_users(self, number: int) -> "GraphEmbeddings":
        """Return the graph with `number` more users at the end, whose vectors are zero.

        Mapped vectors are not copied if the file has room.
        """
        if self.file is None or number * self.users.shape[1] * self.users.itemsize > _ROOM_BYTES:
            return replace(self, users=F.pad(self.users, (0, 0, 0, number)))
        return replace(self, users=_map(self.file, num_more_users=number)["users"])

    def check_finite(self) -> None:
        """Raise DataError if a vector holds NaN or infinity; the message names the first one."""
        for what, vectors in (("user", self.users), ("item", self.items), ("aspect", self.aspects)):
            if vectors is not None:
                check_finite(what, vectors)


def check_finite(what: str, vectors: Tensor) -> None:
    """Raise DataError if one of the vectors (N, D) holds NaN or infinity; `what` has a vector."""
    # The largest magnitude of each row is not finite if any number is not, and takes little memory.
    broken = ~torch.linalg.vector_norm(vectors, ord=torch.inf, dim=1).isfinite()
    if bool(broken.any()):
        first = int(broken.nonzero()[0])
        raise DataError(
            f"{int(broken.sum())} of {len(vectors)} {what} vectors of the graph are not finite, "
            f"first at {what}_index {first}; retrain the graph with a lower "
            "training.learning_rate",
            code="vectors_not_finite",
            key=f"{what}_index",
            saw=first,
        )


def write_graph(
    location: Location,
    tables: Mapping[str, Mapping[str, Tensor]],
    history: Sequence[Mapping[str, Any]],
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    metrics: Mapping[str, Any],
) -> Manifest:
    """Write the artifact, its manifest last, and return the manifest.

    `tables` maps file names to users (U, D), items (I, D), and for `EMBEDDINGS` optionally aspects
    (A, D). They are not copied in memory. `history` has a row for each epoch.
    """
    files = {name: _write_tensors(location / name, parts) for name, parts in tables.items()}
    lines = "".join(json.dumps(row) + "\n" for row in history)
    (location / METRICS).write_bytes(lines.encode())
    return write_manifest(
        location,
        "graph",
        config=config,
        inputs=inputs,
        files=files,
        row_counts={name: len(table) for name, table in tables[EMBEDDINGS].items()},
        metrics=metrics,
    )


def _write_tensors(file: Location, tensors: Mapping[str, Tensor]) -> str:
    """Write contiguous tensors as a safetensors file, and return its content hash."""
    with TemporaryDirectory() as folder:
        copy = Path(folder) / file.name
        safetensors.torch.save_file(dict(tensors), copy)
        file.write_file(str(copy))
        return open_location(str(copy)).digest()


def read_graph(location: Location) -> GraphEmbeddings:
    """Return the graph at `location`; its vectors are fetched once per node.

    Raises ArtifactNotFoundError if there is no finished graph, ArtifactMismatchError if it has
    another kind or schema version or if a file differs from the manifest, and StorageError if the
    node's disk is full.
    """
    manifest = read_manifest(location, "graph")
    file, vectors = read_vectors(location, manifest, EMBEDDINGS)
    return GraphEmbeddings(manifest=manifest, file=file, **vectors)


def read_dataset_and_graph(config: JobConfig) -> tuple[Dataset, GraphEmbeddings]:
    """Return the dataset and the graph of a job.

    Raises the errors of `read_dataset` and `read_graph`, and ArtifactMismatchError if the graph is
    of another dataset.
    """
    dataset, graph = (location_of(config, name) for name in ("dataset", "graph"))
    known, vectors = read_dataset(dataset), read_graph(graph)
    check_graph_of_dataset(vectors.manifest, known.manifest, graph.uri, dataset.uri)
    return known, vectors


def read_vectors(
    location: Location, manifest: Manifest, name: str
) -> tuple[Path, dict[str, Tensor]]:
    """Return this node's copy of a file from `write_graph`, and its mapped tensors."""
    return map_file(location, manifest, name, lambda path: (path, _map(path)), _ROOM_BYTES)


def _map(path: Path, num_more_users: int = 0) -> dict[str, Tensor]:
    """Map a safetensors file that has room at its end for more users.

    The format is 8 bytes with the header's length, a JSON header, and the tensors, the users last.
    Raises ValueError if the file is truncated.
    """
    data = torch.from_numpy(np.memmap(path, np.uint8, mode="c"))
    start = 8 + int.from_bytes(bytes(data[:8]), "little")
    header = json.loads(bytes(data[8:start]))
    size = start + header["users"]["data_offsets"][1] + _ROOM_BYTES
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes, expected {size}")
    tensors = {}
    for name, part in header.items():
        num_rows, dim = part["shape"]
        num_rows += num_more_users if name == "users" else 0
        first = start + part["data_offsets"][0]
        rows = data[first : first + num_rows * dim * torch.float32.itemsize]
        tensors[name] = rows.view(torch.float32).view(num_rows, dim)
    return tensors
