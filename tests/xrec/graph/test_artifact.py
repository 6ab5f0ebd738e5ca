"""The graph artifact: what is written is read back; broken or foreign content is refused."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.graph import embeddings_bytes, read_graph, write_graph
from xrec.graph.artifact import read_metrics
from xrec.storage import Location, open_location


@pytest.fixture
def location(tmp_path: Path) -> Location:
    return open_location(str(tmp_path / "graph"))


def write(location: Location, users: torch.Tensor, items: torch.Tensor) -> None:
    history = [{"epoch": 1, "loss": 0.5}]
    write_graph(
        location,
        embeddings_bytes(users, items),
        history,
        config={"a": 1},
        inputs={"dataset": "d"},
        metrics={"best_epoch": 1},
    )


def test_graph_written_is_read_back_equal(location: Location) -> None:
    users, items = torch.randn(5, 3), torch.randn(4, 3)
    write(location, users, items)
    graph = read_graph(location)
    assert torch.equal(graph.users, users)
    assert torch.equal(graph.items, items)
    assert graph.manifest.inputs == {"dataset": "d"}
    assert graph.manifest.row_counts == {"users": 5, "items": 4}
    assert read_metrics(location) == [{"epoch": 1, "loss": 0.5}]


def test_graph_fingerprint_is_that_of_its_vectors_and_not_of_the_log_beside_them(
    tmp_path: Path,
) -> None:
    vectors = embeddings_bytes(torch.ones(2, 2), torch.ones(3, 2))
    manifests = [
        write_graph(
            open_location(str(tmp_path / str(seconds))),
            vectors,
            [{"seconds": seconds}],
            config={},
            inputs={},
            metrics={},
        )
        for seconds in (1.0, 2.0)
    ]
    assert manifests[0].fingerprint == manifests[1].fingerprint
    assert (tmp_path / "1.0" / "metrics.jsonl").read_text() == '{"seconds": 1.0}\n'


def test_graph_unfinished_is_not_found(location: Location) -> None:
    (location / "embeddings.safetensors").write_bytes(
        embeddings_bytes(torch.ones(1, 1), torch.ones(1, 1))
    )
    with pytest.raises(ArtifactNotFoundError):
        read_graph(location)


def test_graph_with_other_content_than_the_manifest_is_refused(location: Location) -> None:
    write(location, torch.ones(2, 2), torch.ones(2, 2))
    (location / "embeddings.safetensors").write_bytes(
        embeddings_bytes(torch.zeros(2, 2), torch.ones(2, 2))
    )
    with pytest.raises(ArtifactMismatchError, match="not what the manifest says"):
        read_graph(location)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no", "not a readable safetensors"),
        (safetensors.torch.save({"x": torch.ones(1)}), r"saw \['x'\]"),
    ],
)
def test_write_graph_wrong_embeddings_refused_and_nothing_written(
    location: Location, data: bytes, message: str
) -> None:
    with pytest.raises(ArtifactMismatchError, match=message):
        write_graph(location, data, [], config={}, inputs={}, metrics={})
    assert location.files() == []
