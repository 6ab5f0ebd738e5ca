"""The graph artifact: a vector for each user, item and aspect, and a log of the training.

`embeddings.safetensors` holds the vectors, `layer0.safetensors` the layer-0 embeddings that they
came from, where a later graph starts, and `training_vectors.safetensors` those of training pairs
(xrec.graph.leave_out). `metrics.jsonl` has one JSON object for each epoch. Only the vectors
count for the fingerprint: two runs with equal vectors are the same graph.
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
_ROOM_BYTES = 2**28  # for a million more users of 64 numbers; the hole takes no space


@dataclass(frozen=True)
class GraphEmbeddings:
    """The vectors by index: users (U, D), items (I, D) float32.

    `aspects` (A, D) float32 are those of the dataset's aspects, if the graph has them as nodes.
    Vectors that were read are mapped: a process that writes into them changes its own copy of the
    pages only. `file` is this node's file of them, which has room behind the users.
    """

    users: Tensor
    items: Tensor
    manifest: Manifest
    aspects: Tensor | None = None
    file: Path | None = None

    def with_more_users(self, number: int) -> "GraphEmbeddings":
        """The graph with `number` more users behind its own, whose vectors are zeros.

        Vectors that were read are not copied, as long as there is room behind them.
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
    """Raise DataError if one of the `vectors` (N, D), of each `what`, holds NaN or infinity."""
    # The largest size of each row: it is not finite if a number is not, and takes little memory.
    broken = ~torch.linalg.vector_norm(vectors, ord=torch.inf, dim=1).isfinite()
    if bool(broken.any()):
        first = int(broken.nonzero()[0])
        raise DataError(
            f"{int(broken.sum())} of {len(vectors)} {what} vectors of the graph are not finite, "
            f"the first has {what}_index {first}; train the graph again with a "
            "lower training.learning_rate",
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

    `tables` are, by the name of their file, users (U, D), items (I, D) and, in `EMBEDDINGS`,
    aspects (A, D) if there are; they are not copied in memory. `history` has a row for each epoch.
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
    """Write contiguous tensors as a safetensors file; return its content hash."""
    with TemporaryDirectory() as folder:
        copy = Path(folder) / file.name
        safetensors.torch.save_file(dict(tensors), copy)
        file.write_file(str(copy))
        return open_location(str(copy)).digest()


def read_graph(location: Location) -> GraphEmbeddings:
    """Return the graph at `location`; this node fetches its vectors once.

    Raises ArtifactNotFoundError if there is no finished graph. Raises ArtifactMismatchError if the
    artifact has another kind or schema version, or its file differs from what the manifest says.
    Raises StorageError if the node's disk is full.
    """
    manifest = read_manifest(location, "graph")
    file, vectors = read_vectors(location, manifest, EMBEDDINGS)
    return GraphEmbeddings(manifest=manifest, file=file, **vectors)


def read_dataset_and_graph(config: JobConfig) -> tuple[Dataset, GraphEmbeddings]:
    """The dataset and the graph of a job.

    Raises what `read_dataset` and `read_graph` raise, ArtifactMismatchError if the graph is of
    another dataset.
    """
    dataset, graph = (location_of(config, name) for name in ("dataset", "graph"))
    known, vectors = read_dataset(dataset), read_graph(graph)
    check_graph_of_dataset(vectors.manifest, known.manifest, graph.uri, dataset.uri)
    return known, vectors


def read_vectors(
    location: Location, manifest: Manifest, name: str
) -> tuple[Path, dict[str, Tensor]]:
    """This node's copy of a file of `write_graph`, and what it holds, mapped."""
    return map_file(location, manifest, name, lambda path: (path, _map(path)), _ROOM_BYTES)


def _map(path: Path, num_more_users: int = 0) -> dict[str, Tensor]:
    """The vectors of a safetensors file with a hole behind it, from which more users are made.

    The file has 8 bytes with the header's length, a JSON header, and the tensors, the users last.
    Raises ValueError if it is cut off.
    """
    data = torch.from_numpy(np.memmap(path, np.uint8, mode="c"))
    start = 8 + int.from_bytes(bytes(data[:8]), "little")
    header = json.loads(bytes(data[8:start]))
    size = start + header["users"]["data_offsets"][1] + _ROOM_BYTES
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes, expected {size}")
    found = {}
    for name, part in header.items():
        num_rows, dim = part["shape"]
        num_rows += num_more_users if name == "users" else 0
        first = start + part["data_offsets"][0]
        rows = data[first : first + num_rows * dim * torch.float32.itemsize]
        found[name] = rows.view(torch.float32).view(num_rows, dim)
    return found
