"""The graph artifact is read as it was written, or refused; vectors of new users by numpy."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.torch
import torch
from torch import Tensor

from tests.errors import raises
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, DataError
from xrec.graph.artifact import EMBEDDINGS, GraphEmbeddings, read_graph, write_graph
from xrec.graph.fold_in import FoldIn
from xrec.storage import Location, Manifest, open_location

USERS, ITEMS = torch.randn(5, 3), torch.randn(4, 3)


@pytest.fixture
def location(tmp_path):
    return open_location(str(tmp_path / "graph"))


def write(location: Location, users: Tensor, *aspects: Tensor, **row: float) -> Manifest:
    tables = dict(zip(("users", "items", "aspects"), (users, ITEMS, *aspects), strict=False))
    about: dict[str, Any] = {"config": {}, "inputs": {"dataset": "d"}, "metrics": {}}
    return write_graph(location, {EMBEDDINGS: tables}, [row], **about)


def test_graph_is_read_back_equal_and_its_log_is_not_in_the_fingerprint(location):
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
    with raises(ArtifactMismatchError, "changed_file", "embeddings.safetensors"):
        read_graph(location)


def test_more_users_follow_the_stored_ones_without_a_copy(location):
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


@pytest.mark.parametrize(
    ("table", "row", "value"),
    [("users", 3, torch.nan), ("items", 2, torch.inf), ("aspects", 1, torch.nan)],
)
def test_vectors_that_are_not_finite_are_named(table, row, value):
    tables = {"users": USERS.clone(), "items": ITEMS.clone(), "aspects": torch.zeros(2, 3)}
    graph = GraphEmbeddings(manifest=Manifest.model_construct(kind="graph"), **tables)
    graph.check_finite()
    tables[table][row, 2] = value
    with raises(DataError, "vectors_not_finite", f"{table.removesuffix('s')}_index", row):
        graph.check_finite()


# Fold-in

NUM_USERS, NUM_ITEMS, D = 30, 20, 4
TRAINED, TRAINED_ITEMS = (
    torch.randn(number, D, generator=torch.Generator().manual_seed(number))
    for number in (NUM_USERS, NUM_ITEMS)
)
# The last user and the last item have none.
CHANCE = torch.rand(NUM_USERS - 1, NUM_ITEMS - 1, generator=torch.Generator().manual_seed(0))
EDGES = (CHANCE < 0.3).nonzero().T


def unit(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def by_hand(lists: dict[int, list[int]], new: list[list[int]]) -> npt.NDArray[np.float64]:
    """The module's equations, one user at a time.

    The ridge is least squares with added rows for the penalty; the length comes from polyfit.
    """
    t, n = TRAINED.numpy().astype(float), unit(TRAINED_ITEMS.numpy().astype(float))
    z = np.stack([unit(n[list_].mean(axis=0)) for list_ in lists.values()])
    target = unit(t[list(lists)])
    penalty = np.sqrt(1e-3 * np.trace(z.T @ z) / D) * np.eye(D)
    weight = np.linalg.lstsq(
        np.vstack([z, penalty]), np.vstack([target, np.zeros((D, D))]), rcond=None
    )[0]
    degrees = np.log([len(list_) for list_ in lists.values()])
    slope, intercept = np.polyfit(degrees, np.log(np.linalg.norm(t[list(lists)], axis=1)), 1)
    lengths = [
        np.exp(intercept + slope * np.clip(np.log(len(list_)), degrees.min(), degrees.max()))
        for list_ in new
    ]
    return np.stack(
        [
            length * unit(unit(n[list_].mean(axis=0)) @ weight)
            for list_, length in zip(new, lengths, strict=True)
        ]
    )


@pytest.mark.parametrize(("most_fitted", "every"), [(NUM_USERS, 1), (10, 3)])
def test_fold_in_is_the_closed_form_fitted_on_evenly_spread_rows(most_fitted, every):
    rows = EDGES[0].unique().tolist()[::every]
    lists = {row: EDGES[1][EDGES[0] == row].tolist() for row in rows}
    fold_in = FoldIn.of(TRAINED, TRAINED_ITEMS, EDGES, most_fitted=most_fitted)
    # The first has fewer items than any trained user, the last has more.
    new = [[0], [3, 5, 7], list(range(NUM_ITEMS))]
    found = torch.stack([fold_in.vector(torch.tensor(list_)) for list_ in new])
    np.testing.assert_allclose(found, by_hand(lists, new), rtol=2e-5, atol=2e-6)


NOT_FINITE = TRAINED.index_put((torch.tensor(7),), torch.tensor(torch.nan))


@pytest.mark.parametrize(
    ("users", "edges", "code"),
    [
        (NOT_FINITE, EDGES, "vectors_not_finite"),
        (TRAINED, EDGES[:, :0], "no_edges"),
        (TRAINED, torch.tensor([[0], [NUM_ITEMS]]), "index_out_of_range"),
        (TRAINED * 0, EDGES, "nothing_to_fit"),
    ],
)
def test_fold_in_of_a_broken_graph_is_refused(users, edges, code):
    with raises(DataError, code):
        FoldIn.of(users, TRAINED_ITEMS, edges)
