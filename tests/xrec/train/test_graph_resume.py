"""Graph pretraining goes on after kill -9 of a worker or of the driver, as if unbroken."""

import json
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.project_file import write_project
from tests.xrec.train.killing import driver, kill_family, training_workers
from xrec.config.graph import PretrainGraphConfig
from xrec.errors import TrainingError
from xrec.storage import Manifest
from xrec.train.graph import _log_epoch, pretrain_graph

pytestmark = pytest.mark.slow

EPOCHS = {"num_epochs": 12, "patience": 12, "epochs_per_checkpoint": 2}


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture(scope="module")
def unbroken(
    ray_cluster: None, tmp_path_factory: pytest.TempPathFactory, make_graph_config: Any
) -> tuple[Manifest, list[dict[str, Any]]]:
    """One worker's twelve epochs without a break."""
    folder = tmp_path_factory.mktemp("unbroken") / "graph"
    return pretrain_graph(make_graph_config(folder, **EPOCHS)), metrics_of(folder)


def assert_same(
    folder: Path, manifest: Manifest, unbroken: tuple[Manifest, list[dict[str, Any]]]
) -> None:
    expected_manifest, expected = unbroken
    metrics = metrics_of(folder)
    assert [row["epoch"] for row in metrics] == list(range(1, 13))
    for name in ("loss", "learning_rate"):
        assert [row[name] for row in metrics] == pytest.approx(
            [row[name] for row in expected], rel=1e-4
        )
    assert [row["ndcg@20"] for row in metrics] == pytest.approx(
        [row["ndcg@20"] for row in expected], abs=1e-3
    )
    assert manifest.run == expected_manifest.run
    for split in ("validation", "test"):
        for name in ("recall@20", "ndcg@20"):
            assert manifest.metrics[split][name] == pytest.approx(
                expected_manifest.metrics[split][name], abs=1e-3
            )


@pytest.fixture
def kill_a_worker_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Kills a training worker when the driver first gets the epoch's report.

    Returns a list, to which the worker's pid is then added.
    """

    def arrange(epoch: int) -> list[int]:
        killed: list[int] = []

        def log_and_kill(log: Any, row: dict[str, Any]) -> None:
            _log_epoch(log, row)
            if row["epoch"] == epoch and not killed:
                victim = training_workers(psutil.Process())[-1]
                victim.kill()
                killed.append(victim.pid)

        monkeypatch.setattr("xrec.train.graph._log_epoch", log_and_kill)
        return killed

    return arrange


def test_worker_killed_is_replaced_and_training_goes_on_from_the_checkpoint(
    unbroken: tuple[Manifest, list[dict[str, Any]]],
    make_graph_config: Any,
    tmp_path: Path,
    kill_a_worker_after: Callable[[int], list[int]],
) -> None:
    killed = kill_a_worker_after(5)
    manifest = pretrain_graph(
        make_graph_config(tmp_path / "graph", num_workers=2, max_failures=1, **EPOCHS)
    )
    assert len(killed) == 1
    assert_same(tmp_path / "graph", manifest, unbroken)


@pytest.mark.parametrize(
    ("before", "after"),
    [((1, "replicated"), (3, "partitioned")), ((2, "partitioned"), (2, "replicated"))],
)
def test_run_that_failed_goes_on_with_other_workers_in_the_other_mode(
    unbroken: tuple[Manifest, list[dict[str, Any]]],
    make_graph_config: Any,
    tmp_path: Path,
    kill_a_worker_after: Callable[[int], list[int]],
    before: tuple[int, str],
    after: tuple[int, str],
) -> None:
    kill_a_worker_after(5)
    with pytest.raises(TrainingError):
        pretrain_graph(make_graph_config(tmp_path / "graph", *before, **EPOCHS))
    times = {row["epoch"]: row["time"] for row in metrics_of(tmp_path / "graph")}
    manifest = pretrain_graph(make_graph_config(tmp_path / "graph", *after, **EPOCHS))
    assert_same(tmp_path / "graph", manifest, unbroken)
    assert [row["time"] for row in metrics_of(tmp_path / "graph")[:4]] == [
        times[epoch] for epoch in (1, 2, 3, 4)
    ]  # not trained again


def test_driver_killed_and_started_again_goes_on_from_the_checkpoint(
    unbroken: tuple[Manifest, list[dict[str, Any]]], make_graph_config: Any, tmp_path: Path
) -> None:
    config = make_graph_config(tmp_path / "graph", num_workers=2, **EPOCHS)
    times = _run_and_kill_driver(config, tmp_path, after_epoch=5)
    assert not (tmp_path / "graph" / "manifest.json").exists()
    with _driver(config, tmp_path) as process:
        assert process.wait(timeout=300) == 0, (tmp_path / "log").read_text()
    manifest = Manifest.model_validate_json((tmp_path / "graph" / "manifest.json").read_text())
    assert_same(tmp_path / "graph", manifest, unbroken)
    assert [row["time"] for row in metrics_of(tmp_path / "graph")[:4]] == [
        times[epoch] for epoch in (1, 2, 3, 4)
    ]


def _run_and_kill_driver(
    config: PretrainGraphConfig, folder: Path, after_epoch: int
) -> dict[int, float]:
    """Start the command and kill it after an epoch; return each epoch's time of writing."""
    with _driver(config, folder) as process:
        deadline = time.monotonic() + 240
        while len(metrics_of(folder / "graph")) < after_epoch:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        kill_family(process)
    return {row["epoch"]: row["time"] for row in metrics_of(folder / "graph")}


def _driver(
    config: PretrainGraphConfig, folder: Path
) -> AbstractContextManager["subprocess.Popen[bytes]"]:
    """Run `xrec pretrain-graph` with a Ray cluster of its own."""
    write_project(folder / "graph.yaml", config)
    return driver(
        "pretrain-graph",
        folder / "graph.yaml",
        folder / "log",
        "ray.num_cpus=4",
        "ray.address=local",
    )
