"""The graph benchmark: its parts against independent oracles, its command on a small town."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from benchmarks.graph import app, read_data
from benchmarks.graph_methods import (
    EASE_REGULARIZATIONS,
    METHODS,
    Budget,
    RecipeModel,
    fit_ease,
    fused_product,
    recipe_triples,
)
from xrec.graph.adjacency import normalized_adjacency


@pytest.fixture(scope="module")
def data(workspace):
    return read_data(str(workspace / "dataset"))


def test_recipe_has_the_loss_and_gradients_of_a_dense_product(data):
    adjacency = normalized_adjacency(data.train, data.num_users, data.num_items)
    dense = adjacency.to_dense()
    batch = [column[:50] for column in recipe_triples(data)]
    found = []
    for product in (lambda x: dense @ x, fused_product(adjacency)):
        torch.manual_seed(0)
        model = RecipeModel(data.num_users, data.num_items, 8, product)
        loss = model.loss(*batch)
        loss.backward()
        found.append((loss.detach(), model.users.grad, model.items.grad))
    for expected, fused in zip(*found, strict=True):
        torch.testing.assert_close(fused, expected, rtol=1e-4, atol=1e-7)


def test_ease_scores_equal_a_ridge_regression_of_each_item_on_the_others(data):
    snapshot = next(fit_ease(data, Budget(8, 1, 0.0, "")))
    rows, items, values = snapshot.vectors.more(torch.arange(data.num_users))
    scores = torch.zeros(data.num_users, data.num_items).index_put((rows, items), values).numpy()
    ratings = data.interactions().toarray().astype(np.float64)
    for item in (0, 7, 29):
        others = np.delete(ratings, item, axis=1)
        weights = np.linalg.solve(
            others.T @ others + EASE_REGULARIZATIONS[0] * np.eye(others.shape[1]),
            others.T @ ratings[:, item],
        )
        np.testing.assert_allclose(scores[:, item], others @ weights, atol=1e-5)


def test_quality_scores_every_method_and_writes_the_table(workspace, run):
    methods = [name for name in METHODS if name != "als" or find_spec("implicit")]
    toy = {"embedding_dim": 8, "budget_seconds": 0}
    rows = run(app, "quality", workspace / "dataset", method=methods, **toy)["D = 8"]
    assert [row["method"] for row in rows] == methods
    for row in rows:
        assert 0 < row["validation recall@20"] <= 1
        assert 0 < row["test recall@20"] <= 1


@pytest.mark.slow
def test_workers_have_the_losses_of_one_in_2_l_plus_4_collectives(run):
    toy = {"num_nodes": 200, "num_edges": 900, "embedding_dim": 8, "num_steps": 3}
    tables = run(app, "workers", num_workers=[1, 2], num_layers=3, optimizer="sgd", **toy)
    one, two = tables["a step, sgd"]
    assert [row["collectives"] for row in (one, two)] == [0, 2 * 3 + 4]
    assert [row["own rows"] for row in (one, two)] == [200, 100]
    assert [row["halo"] for row in (one, two)] == [0, pytest.approx(two["reckoned halo"], rel=0.2)]
    assert one["MB sent"] == 0 < two["MB sent"]
    for name in ("losses differ", "tables differ"):
        assert float(two[name]) < 1e-5
    assert tables["reckoned"][-1]["own rows"] == 1
