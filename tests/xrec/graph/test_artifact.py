"""The graph artifact: what is written is read back; broken or foreign content is refused."""

import json
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, DataError
from xrec.graph.artifact import (
    EMBEDDINGS,
    GraphEmbeddings,
    read_graph,
    write_graph,
)
from xrec.storage import Location, Manifest, open_location

USERS, ITEMS = torch.randn(5, 3), torch.randn(4, 3)


@pytest.fixture
def location(tmp_path):
    return open_location(str(tmp_path / "graph"))


def write(location: Location, users: Tensor, *aspects: Tensor, **row: float) -> Manifest:
    tables = dict(zip(("users", "items", "aspects"), (users, ITEMS, *aspects), strict=False))
    about: dict[str, Any] = {"config": {}, "inputs": {"dataset": "d"}, "metrics": {}}
    return write_graph(location, {EMBEDDINGS: tables}, [row], **about)


def test_graph_written_is_read_back_equal_and_its_log_is_not_in_the_fingerprint(location):
    written = write(location, USERS, loss=0.5)
    graph = read_graph(location)
    assert torch.equal(graph.users, USERS)
    assert torch.equal(graph.items, ITEMS)
    assert graph.aspects is None
    assert graph.manifest == written
    assert written.row_counts == {"users": 5, "items": 4}
    assert json.loads((location / "metrics.jsonl").read_text()) == {"loss": 0.5}
    again = write(location, USERS, loss=0.7)
    assert again.fingerprint == written.fingerprint


def test_graph_unfinished_or_changed_is_refused(location):
    (location / "embeddings.safetensors").write_bytes(safetensors.torch.save({"users": USERS}))
    with pytest.raises(ArtifactNotFoundError):
        read_graph(location)
    write(location, USERS + 1)
    (location / "embeddings.safetensors").write_bytes(safetensors.torch.save({"users": USERS}))
    with pytest.raises(ArtifactMismatchError, match="not what the manifest says"):
        read_graph(location)


def test_more_users_stand_behind_those_that_were_read_which_are_not_copied(location):
    write(location, USERS, torch.randn(2, 3))
    graph = read_graph(location)
    more = graph.with_more_users(4)
    assert torch.equal(more.users, torch.cat([USERS, torch.zeros(4, 3)]))
    assert torch.equal(more.items, ITEMS)
    assert more.users.untyped_storage().nbytes() > 2**28  # the whole file, and not a new tensor
    more.users[0], more.users[5] = 7, 7
    for fresh in (graph, read_graph(location)):
        assert torch.equal(fresh.users, USERS)
    assert not graph.with_more_users(1).users[5].any()


def test_more_users_than_there_is_room_for_are_copied(location, monkeypatch):
    monkeypatch.setattr("xrec.graph.artifact._ROOM_BYTES", 30)
    write(location, USERS * 5)
    graph = read_graph(location).with_more_users(3)
    assert torch.equal(graph.users, torch.cat([USERS * 5, torch.zeros(3, 3)]))


@pytest.mark.parametrize(
    ("table", "row", "value", "message"),
    [
        ("users", 3, torch.nan, "1 of 5 user vectors .* user_index 3; train"),
        ("items", 2, torch.inf, "item_index 2"),
        ("aspects", 1, torch.nan, "aspect_index 1"),
    ],
)
def test_vectors_that_are_not_finite_are_named(table, row, value, message):
    tables = {"users": USERS.clone(), "items": ITEMS.clone(), "aspects": torch.zeros(2, 3)}
    graph = GraphEmbeddings(manifest=Manifest.model_construct(kind="graph"), **tables)
    graph.check_finite()
    tables[table][row, 2] = value
    with pytest.raises(DataError, match=message):
        graph.check_finite()
