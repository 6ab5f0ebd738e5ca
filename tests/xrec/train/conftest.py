"""A town, trained adapters, and configs of graphs."""

import gc
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import psutil
import pytest
import ray

from tests.world.cluster import training_workers
from tests.world.program import at_message, wait_until
from tests.world.town import dataset_in, prepare, with_aspects
from tests.world.workspace import build_workspace
from tests.xrec.train.adapter_town import RANDOM, make_config
from tests.xrec.train.worker import fit_here, train_here
from xrec.config import PretrainGraphConfig, StorageConfig
from xrec.errors import TrainingError
from xrec.storage import Manifest, open_location
from xrec.train.adapter import train_adapter

TOWN = {
    "kind": "sample",
    "num_users": 60,
    "num_items": 41,
    "interactions_per_user": 10,
    "explanations_per_user": 4,
}
# 101 nodes cannot be divided into two, three or four equal blocks, and with micro-batches of 31 the
# workers' numbers of rows differ by one.
TRAINING = {"num_epochs": 4, "steps_per_epoch": 4, "micro_batch_size": 31, "learning_rate": 0.05}


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """A town of 40 users, a graph of random vectors, and a random language model."""
    return build_workspace(tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="session")
def alone(workspace, tmp_path_factory):
    """An uninterrupted training, with noise, by one worker at ZeRO stage 1."""
    folder = tmp_path_factory.mktemp("alone")
    sizes = {"num_workers": 1, "zero_stage": 1}
    return train_here(
        folder, make_config(workspace, adapter=folder / "adapter", model=RANDOM, **sizes)
    )


KILLED_AT = "epoch 2, step 10: checkpoint"  # of 6 steps an epoch


class Resumed(NamedTuple):
    """The artifact of a training that was killed, and what the driver that resumed it logged."""

    manifest: Manifest
    log: list[str]


@pytest.fixture(scope="session")
def trained_adapter(workspace, ray_cluster):
    """The same training by two workers at stage 3 on Ray, until kill -9 ends one in epoch 2.

    One worker at stage 1 resumes it, in this process.
    """
    config = make_config(workspace, model=RANDOM, steps_per_checkpoint=2)
    with worker_killed_at("adapter", KILLED_AT), pytest.raises(TrainingError):
        train_adapter(config)
    config = make_config(workspace, model=RANDOM, num_workers=1, zero_stage=1)
    with pytest.MonkeyPatch.context() as patch, at_message("resuming", lambda: None) as log:
        patch.setattr("xrec.train.adapter.fit", fit_here)
        return Resumed(train_adapter(config), log)


@contextmanager
def worker_killed_at(kind: str, message: str) -> Iterator[list[str]]:
    """Kill a worker with kill -9 when the training of a "graph" or "adapter" logs `message`.

    The workers wait for it after that report, however late the driver reads it. Yields what is
    logged.
    """
    module = import_module(f"xrec.train.{kind}")
    loop = module.train_worker
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        killed = Path(folder, "killed")

        def train_worker(loop_config: dict[str, Any]) -> None:
            worker: Any = import_module(f"xrec.train.{kind}_worker")
            send = worker.report

            def report(metrics: dict[str, Any], *files: Any, **settings: Any) -> None:
                send(metrics, *files, **settings)
                logged = metrics.get("note") or f"epoch {metrics['epoch']}: loss"
                while message in logged and not killed.exists():
                    time.sleep(0.02)

            worker.report = report
            loop(loop_config)

        def kill() -> None:
            training_workers(psutil.Process())[-1].kill()
            killed.touch()

        patch.setattr(module, "train_worker", train_worker)
        with at_message(message, kill) as log:
            yield log


@pytest.fixture(autouse=True, scope="module")
def no_cpu_is_held_by_earlier_tests():
    """Wait for the CPUs that actors of failed runs hold until pytest's errors are collected."""
    gc.collect()
    if ray.is_initialized():
        num_cpus = ray.cluster_resources()["CPU"]
        wait_until(lambda: ray.available_resources().get("CPU") == num_cpus, seconds=30)


@pytest.fixture(scope="session")
def town(tmp_path_factory):
    """A workspace with the town's dataset."""
    workspace = str(tmp_path_factory.mktemp("town"))
    prepare(workspace, source=TOWN)
    return workspace


@pytest.fixture(scope="session")
def town_with_aspects(town, tmp_path_factory):
    """A workspace with the town's dataset, and an aspect of each explained training pair."""
    return with_aspects(dataset_in(town), tmp_path_factory.mktemp("town-with-aspects"), ("train",))


def metrics_of(graph: Path | str, storage: StorageConfig | None = None) -> list[dict[str, Any]]:
    """The rows of the graph's epochs."""
    lines = (open_location(str(graph), storage) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def assert_same_epochs(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Compare what the epochs of two graphs report."""
    for name, tolerance in (
        ("loss", {"rel": 1e-4}),
        ("learning_rate", {"rel": 1e-4}),
        ("ndcg@20", {"abs": 1e-3}),
    ):
        found, values = ([row[name] for row in each] for each in (rows, expected))
        assert found == pytest.approx(values, **tolerance)


@pytest.fixture(scope="session")
def make_graph_config(town):
    """Make the config of a graph of the town at `graph`; other keywords go into `training`."""

    def make(
        graph: Path | str,
        num_workers: int = 1,
        max_failures: int = 0,
        *,
        workspace: str = town,
        model: dict[str, Any] | None = None,
        folds: int = 0,
        **training: Any,
    ) -> PretrainGraphConfig:
        workers = {"num_processes": num_workers, "max_failures": max_failures, "device": "cpu"}
        return PretrainGraphConfig.model_validate(
            {
                "workspace": workspace,
                "artifacts": {"graph": str(graph)},
                "model": {"embedding_dim": 8, "num_layers": 2, **(model or {})},
                "training": {**TRAINING, **training},
                "folds": folds,
                "workers": workers,
            }
        )

    return make
