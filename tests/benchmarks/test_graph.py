"""The graph benchmark: its parts against independent oracles, its commands on a small town."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.graph_closed_forms import fit_ease
from benchmarks.graph_data import BenchmarkData, Evaluator, ScoreRows, Vectors, read_data
from benchmarks.graph_recipe import (
    BATCH_SIZE,
    RecipeModel,
    fused_product,
    original_product,
    recipe_triples,
    train_fused,
)
from benchmarks.graph_report import OURS, RECIPE, RECIPE_ORIGINAL, Report
from benchmarks.graph_results import Results
from benchmarks.graph_synthetic import power_law_edges
from benchmarks.graph_work import Step, count_work
from jobs.prepare import run as prepare_dataset
from xrec.config.data import PrepareConfig
from xrec.graph import normalized_adjacency

TOWN = {
    "kind": "sample",
    "num_users": 60,
    "num_items": 40,
    "interactions_per_user": 10,
    "explanations_per_user": 4,
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of a dataset artifact of 60 users and 40 items."""
    workspace = tmp_path_factory.mktemp("town")
    prepare_dataset(PrepareConfig.model_validate({"workspace": str(workspace), "source": TOWN}))
    return str(workspace / "dataset")


@pytest.fixture(scope="module")
def data(dataset: str) -> BenchmarkData:
    return read_data(dataset)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_recipe_original_and_fused_products_give_the_same_loss_and_gradients(
    data: BenchmarkData,
) -> None:
    adjacency = normalized_adjacency(data.train, data.num_users, data.num_items)
    batch = [column[:50] for column in recipe_triples(data, seed=0)]
    found = []
    for product in (original_product(adjacency), fused_product(adjacency)):
        torch.manual_seed(0)
        model = RecipeModel(data.num_users, data.num_items, 8, product)
        loss = model.loss(*batch)
        loss.backward()
        found.append((loss.detach(), model.users.grad, model.items.grad))

    for original, fused in zip(*found, strict=True):
        torch.testing.assert_close(original, fused, rtol=1e-4, atol=1e-7)


def test_recipe_triples_never_have_a_training_item_as_negative(data: BenchmarkData) -> None:
    users, pos_items, neg_items = recipe_triples(data, seed=0)

    pairs = set(zip(*data.train.tolist(), strict=True))
    assert set(zip(users.tolist(), pos_items.tolist(), strict=True)) == pairs
    assert not pairs & set(zip(users.tolist(), neg_items.tolist(), strict=True))
    assert set(neg_items.tolist()) <= set(data.train[1].tolist())


def test_train_fused_carried_on_equals_one_run(data: BenchmarkData, tmp_path: Path) -> None:
    assert data.train.shape[1] < BATCH_SIZE
    setting = {"embedding_dim": 8, "seed": 3, "epochs_per_snapshot": 1}
    whole = train_fused(data, **setting, budget_seconds=1e9, checkpoint=tmp_path / "whole.pt")
    unbroken = [next(whole) for _ in range(3)][-1]
    parts = [
        list(train_fused(data, **setting, budget_seconds=0.0, checkpoint=tmp_path / "parts.pt"))
        for _ in range(3)
    ]

    assert [part[0].epoch for part in parts] == [1, 2, 3]
    assert parts[0][0].seconds < parts[1][0].seconds < parts[2][0].seconds
    torch.testing.assert_close(parts[-1][0].scores.users, unbroken.scores.users)
    torch.testing.assert_close(parts[-1][0].scores.items, unbroken.scores.items)


def test_evaluator_scores_of_rows_equal_those_of_vectors(data: BenchmarkData) -> None:
    torch.manual_seed(0)
    vectors = Vectors(torch.randn(data.num_users, 4), torch.randn(data.num_items, 4))
    evaluate = Evaluator(data)

    of_vectors, of_rows = (
        evaluate(vectors),
        evaluate(ScoreRows(lambda users: vectors.users[users] @ vectors.items.T)),
    )
    assert of_vectors["validation"] != of_vectors["test"]
    for split, metrics in of_vectors.items():
        assert of_rows[split] == pytest.approx(metrics, abs=1e-6)


def test_ease_scores_equal_a_ridge_regression_of_each_item_on_the_others(
    data: BenchmarkData,
) -> None:
    snapshot = next(fit_ease(data, regularization=20.0))
    scores = snapshot.scores.of(torch.arange(data.num_users)).numpy()

    ratings = data.interactions().toarray().astype(np.float64)
    for item in (0, 7, 39):
        others = np.delete(ratings, item, axis=1)
        weights = np.linalg.solve(
            others.T @ others + 20.0 * np.eye(others.shape[1]), others.T @ ratings[:, item]
        )
        np.testing.assert_allclose(scores[:, item], others @ weights, atol=1e-4)


def test_power_law_edges_are_distinct_seeded_and_skewed_on_both_sides() -> None:
    edges, num_users, num_items = power_law_edges(20_000, seed=1)

    assert (edges.shape, num_users + num_items) == ((2, 20_000), 2_000)
    assert len(torch.unique(edges, dim=1).T) == 20_000
    for indices, count in zip(edges, (num_users, num_items), strict=True):
        degrees = torch.bincount(indices, minlength=count)
        assert len(degrees) == count
        assert degrees.max() > 10 * degrees.float().median()
    assert torch.equal(edges, power_law_edges(20_000, seed=1)[0])
    assert not torch.equal(edges, power_law_edges(20_000, seed=2)[0])


def test_count_work_of_a_partition_falls_with_the_workers_and_equals_a_count_by_hand() -> None:
    edges, num_users, num_items = power_law_edges(20_000, seed=1)
    rows = {
        (row["mode"], row["W"]): row
        for row in count_work(edges, num_users, num_items, Step(16, 2, 1000, 64))
    }

    assert rows["partitioned", 1]["propagation MFLOP"] == pytest.approx(
        2 * 2 * 2 * 40_000 * 16 / 1e6, rel=1e-3
    )
    assert rows["partitioned", 1]["nonzeros"] == rows["replicated", 8]["nonzeros"] == 40_000
    for num_workers in (2, 4, 8):
        assert rows["partitioned", num_workers]["propagation MFLOP / W=1"] == pytest.approx(
            1 / num_workers, rel=0.1
        )  # the busiest of them
        assert rows["replicated", num_workers]["propagation MFLOP / W=1"] == 1.0


def point(
    method: str, epoch: int, seconds: float, recall: float, run: int = 1
) -> dict[str, object]:
    scores = {"recall@20": recall, "ndcg@20": recall / 2}
    values = {
        "dataset": "town",
        "method": method,
        "embedding_dim": 8,
        "run": run,
        "epoch": epoch,
        "seconds": seconds,
        "cpu_seconds": seconds,
    }
    return {"kind": "point", **values, "validation": scores, "test": scores}


def test_report_speedup_is_the_recipes_extrapolated_seconds_over_ours(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for record in (
        *(
            point(RECIPE, 1, 10.0, 0.10),
            point(RECIPE, 5, 50.0, 0.12),
            point(RECIPE, 10, 100.0, 0.11),
        ),
        point(OURS, 0, 99.0, 0.9, run=1),  # an earlier run
        *(point(OURS, 0, 2.0, 0.11, run=2), point(OURS, 1, 4.0, 0.13, run=2)),
        {
            "kind": "epoch_time",
            "dataset": "town",
            "embedding_dim": 8,
            "seconds_per_epoch": 40.0,
            "cpu_seconds_per_epoch": 30.0,
        },
    ):
        results.append(record)
    report = Report.of(results)

    assert [
        (
            row["recipe's epoch"],
            row["recipe, original: seconds"],
            row["ours: seconds"],
            row["original / ours"],
        )
        for row in report.speedups()
    ] == [
        (1, 40.0, 2.0, 20),
        (5, 200.0, 4.0, 50),
    ]
    assert [(row["method"], row["epoch"], row["seconds"]) for row in report.rows()] == [
        (OURS, 1, 4.0),
        (RECIPE, 5, 50.0),
        (RECIPE_ORIGINAL, 5, 200.0),
    ]
    assert "10 epochs, best validation recall@20 0.1200 at epoch 5" in report.status()[0]
    assert "does not hold yet" in report.status()[0]


@pytest.mark.usefixtures("threads")
def test_quality_smoke_run_scores_every_method_and_writes_table_and_plot(
    dataset: str, tmp_path: Path
) -> None:
    pytest.importorskip("implicit")
    from typer.testing import CliRunner

    from benchmarks.graph import DEFAULT_METHODS, app

    done = CliRunner().invoke(
        app,
        ["quality", dataset, "--smoke", "--embedding-dim", "8", "--output", str(tmp_path)],
        catch_exceptions=False,
    )

    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "quality.json").read_text())
    assert {row["method"] for row in rows} == set(DEFAULT_METHODS)
    assert all(
        0 < row[f"{split} {metric}"] <= 1
        for row in rows
        for split in ("validation", "test")
        for metric in ("recall@20", "ndcg@20")
    )
    assert "| ours |" in (tmp_path / "quality.md").read_text()
    assert (tmp_path / "quality.png").stat().st_size > 10_000


@pytest.mark.usefixtures("threads")
def test_bandwidth_and_work_write_their_tables(dataset: str, tmp_path: Path) -> None:
    pytest.importorskip("implicit")
    from typer.testing import CliRunner

    from benchmarks.graph import app

    for command in (["work", dataset], ["bandwidth", dataset, "--edges", "0", "--repeats", "1"]):
        done = CliRunner().invoke(
            app,
            [*command, "--embedding-dim", "8", "--output", str(tmp_path)],
            catch_exceptions=False,
        )
        assert done.exit_code == 0, done.output

    rates = json.loads((tmp_path / "bandwidth.json").read_text())
    assert [row["what"] for row in rates][:2] == [
        "propagation, one layer",
        "gather of the same rows",
    ]
    assert all(row["GB a second"] > 0 for row in rates)
    assert len(list(tmp_path.glob("work-*.json"))) == 1
