"""The release's vectors as a graph artifact; those of another dataset are refused."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.prepare import run as prepare_dataset
from tests.xrec.release.public_release import make_converter, vector_files, write_release
from xrec.config.base import parse_config
from xrec.config.data import PrepareConfig
from xrec.data.dataset import Dataset, read_dataset
from xrec.errors import ArtifactMismatchError, DataError
from xrec.graph import read_graph
from xrec.release.vectors import read_release_vectors, write_release_graph
from xrec.storage import open_location

USERS, ITEMS = torch.randn(8, 6), torch.randn(5, 6)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("release")
    write_release(
        root / "raw",
        USERS,
        ITEMS,
        {"user": make_converter(2, 6, 4, seed=0), "item": make_converter(2, 6, 4, seed=1)},
    )
    config: dict[str, Any] = {
        "workspace": str(root),
        "source": {"kind": "xrec_release", "uri": str(root / "raw")},
    }
    prepare_dataset(parse_config(PrepareConfig, config))
    return read_dataset(open_location(str(root / "dataset")))


def test_release_graph_holds_the_vectors_and_is_the_same_at_every_import(
    dataset: Dataset, tmp_path: Path
) -> None:
    files = vector_files(USERS, ITEMS)
    location = open_location(str(tmp_path / "graph"))
    users, items = read_release_vectors(files, dataset)
    made = write_release_graph(location, users, items, files=files, dataset=dataset.manifest)
    graph = read_graph(location)
    assert torch.equal(graph.users, USERS)
    assert torch.equal(graph.items, ITEMS)
    assert graph.manifest.inputs["dataset"] == dataset.manifest.fingerprint
    assert (
        write_release_graph(location, users, items, files=files, dataset=dataset.manifest) == made
    )
    others = vector_files(USERS + 1, ITEMS)
    with pytest.raises(ArtifactMismatchError, match="holds the graph of another run"):
        write_release_graph(location, USERS + 1, items, files=others, dataset=dataset.manifest)


def test_release_vectors_of_another_catalogue_or_shape_raise_data_error(dataset: Dataset) -> None:
    files = vector_files(USERS, ITEMS)
    wrong = [
        (
            vector_files(USERS[:7], ITEMS),
            r"user_emb\.pkl has 7 vectors, the dataset 8 users; .*xrec_release",
        ),
        (vector_files(USERS, ITEMS[:4]), r"item_emb\.pkl has 4 vectors, the dataset 5 items"),
        (
            {**files, "item_emb.pkl": pickle.dumps(torch.randn(5, 7))},
            r"vectors of 6 numbers, item_emb\.pkl of 7",
        ),
        (
            {**files, "user_emb.pkl": pickle.dumps(torch.randn(8))},
            r"user_emb\.pkl: expected vectors \(N, D\), saw shape \(8,\)",
        ),
    ]
    for content, message in wrong:
        with pytest.raises(DataError, match=message):
            read_release_vectors(content, dataset)


def test_release_vectors_for_a_dataset_of_other_ids_raise_data_error(dataset: Dataset) -> None:
    """If the rows had another order, each user would get the vector of another."""
    order = [1, 0, *range(2, 8)]
    other = Dataset(
        dataset.manifest,
        dataset.users.take(order),
        dataset.items,
        dataset.interactions,
        dataset.explanations,
    )
    with pytest.raises(
        DataError, match="row 0 of the dataset's users has the id '1', expected '0'"
    ):
        read_release_vectors(vector_files(USERS, ITEMS), other)
