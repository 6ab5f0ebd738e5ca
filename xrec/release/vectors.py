"""The graph vectors of the public XRec release as a graph artifact.

Row r of `user_emb.pkl` (`item_emb.pkl`) is the vector of the user (item) with the id r, as in the
dataset that `xrec prepare` makes from the release.
"""

from collections.abc import Mapping

import pyarrow as pa
from torch import Tensor

from xrec.data.dataset import Dataset
from xrec.errors import DataError
from xrec.graph.artifact import embeddings_bytes, write_graph
from xrec.release.tensor_pickle import read_tensor
from xrec.storage import Location, Manifest, content_hash, finished

VECTOR_FILES = ("user_emb.pkl", "item_emb.pkl")


def read_release_vectors(files: Mapping[str, bytes], dataset: Dataset) -> tuple[Tensor, Tensor]:
    """The vectors of users (U, D) and items (I, D), float32, from the content of VECTOR_FILES.

    Raises DataError if they are not those of the dataset's users and items.
    """
    users, items = (_vectors(files[name], name) for name in VECTOR_FILES)
    if users.shape[1] != items.shape[1]:
        raise DataError(
            f"user_emb.pkl has vectors of {users.shape[1]} numbers, item_emb.pkl of "
            f"{items.shape[1]}; expected equal lengths"
        )
    for what, vectors, ids in (
        ("user", users, dataset.users["user_id"]),
        ("item", items, dataset.items["item_id"]),
    ):
        _check_ids(what, len(vectors), ids)
    return users, items


def write_release_graph(
    location: Location,
    users: Tensor,
    items: Tensor,
    *,
    files: Mapping[str, bytes],
    dataset: Manifest,
) -> Manifest:
    """Write the graph artifact of the vectors, unless it is there; returns its manifest.

    Raises ArtifactMismatchError if another graph is there.
    """
    config = {"source": "xrec_release", "model": {"embedding_dim": users.shape[1]}}
    inputs = {
        "dataset": dataset.fingerprint,
        **{name: content_hash(files[name]) for name in VECTOR_FILES},
    }
    there = finished(location, "graph", config, inputs)
    return there or write_graph(
        location, embeddings_bytes(users, items), [], config=config, inputs=inputs, metrics={}
    )


def _vectors(data: bytes, name: str) -> Tensor:
    vectors = read_tensor(data, name)
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise DataError(f"{name}: expected vectors (N, D), saw shape {tuple(vectors.shape)}")
    return vectors


def _check_ids(what: str, num_vectors: int, ids: pa.ChunkedArray) -> None:
    """Raise DataError unless row r of the dataset has the id r, since vectors go by row."""
    if len(ids) != num_vectors:
        raise DataError(
            f"{what}_emb.pkl has {num_vectors} vectors, the dataset {len(ids)} {what}s; prepare "
            "the dataset from the same release (source.kind xrec_release)"
        )
    other = next((row for row, entity in enumerate(ids.to_pylist()) if entity != str(row)), None)
    if other is not None:
        raise DataError(
            f"row {other} of the dataset's {what}s has the id {ids[other].as_py()!r}, expected "
            f"'{other}': the release's vectors go by dense ids; prepare the dataset from the "
            "release (source.kind xrec_release)"
        )
