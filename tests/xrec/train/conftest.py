"""What training is tested on: a town, trained adapters, and configs of graphs."""

import gc
import json
import logging
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
from tests.world.program import at_message
from tests.world.town import dataset_in, prepare, with_aspects
from tests.world.workspace import build_workspace
from tests.xrec.train.adapter_town import RANDOM, make_config
from tests.xrec.train.worker import train_here
from xrec.config import PretrainGraphConfig, StorageConfig
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
    """A town of 40 users, a graph of random vectors, a random language model."""
    return build_workspace(tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="session")
def alone(workspace, tmp_path_factory):
    """An adapter, with noise, of a worker alone at ZeRO stage 1, without a break."""
    folder = tmp_path_factory.mktemp("alone")
    config = make_config(
        workspace, adapter=folder / "adapter", num_workers=1, zero_stage=1, model=RANDOM
    )
    return train_here(folder, config)


KILLED_AT = "epoch 2, step 10: checkpoint"  # of 6 steps an epoch


@pytest.fixture(scope="session")
def trained_adapter(workspace, ray_cluster):
    """The same of two workers at stage 3 on Ray, one of which was killed by kill -9 in epoch 2.

    `frozen.safetensors` beside it holds the language model's weights as they were in the engine at
    the end, and which share of them the first worker had.
    """

    def train_worker(loop_config: dict[str, Any]) -> None:
        import deepspeed
        import safetensors.torch
        import torch

        from xrec.train import adapter_worker, ray_worker

        build, engines = adapter_worker.build_engine, []

        def build_engine(*arguments: Any, **settings: Any) -> Any:
            engines.append(build(*arguments, **settings))
            return engines[-1]

        adapter_worker.build_engine = build_engine
        adapter_worker.train_worker(loop_config)
        named = engines[0].module.named_parameters()
        frozen = {name: weight for name, weight in named if not weight.requires_grad}
        num_here = sum(weight.ds_tensor.numel() for weight in frozen.values())
        num_all = sum(weight.ds_numel for weight in frozen.values())
        with deepspeed.zero.GatheredParameters(list(frozen.values())):
            whole = {name: weight.detach().clone() for name, weight in frozen.items()}
        if ray_worker.rank() == 0:
            whole["share"] = torch.tensor(num_here / num_all)
            safetensors.torch.save_file(whole, f"{workspace}/frozen.safetensors")

    settings = {"steps_per_checkpoint": 2, "workers": {"max_failures": 1}}
    with pytest.MonkeyPatch.context() as patch, logged() as log:
        patch.setattr("xrec.train.adapter.train_worker", train_worker)
        with worker_killed_at("adapter", KILLED_AT):
            manifest = train_adapter(make_config(workspace, model=RANDOM, **settings))
    return Resumed(manifest, "\n".join(log))


class Resumed(NamedTuple):
    """What a training left that was stopped and went on."""

    manifest: Manifest
    log: str


@contextmanager
def worker_killed_at(kind: str, message: str) -> Iterator[None]:
    """Kill a worker with kill -9 once the training of a "graph" or "adapter" logs `message`.

    The workers wait for it after the report that is logged so, however late the driver reads it.
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
        with at_message(message, kill):
            yield


@contextmanager
def logged() -> Iterator[list[str]]:
    """Collect what the driver logs."""
    logger, handler, messages = logging.getLogger("xrec"), logging.Handler(), list[str]()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel("INFO")
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


@pytest.fixture(autouse=True, scope="module")
def no_cpu_is_held_by_earlier_tests():
    """Wait until every CPU is free, because elastic training waits for them.

    Actors of failed executions hold their CPUs until pytest's records of the errors are collected.
    """
    gc.collect()
    deadline = time.monotonic() + 30
    while (
        ray.is_initialized()
        and ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"]
        and time.monotonic() < deadline
    ):
        time.sleep(0.2)


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
    """Makes configs of a graph of the town at `graph`; other keywords go into `training`."""

    def make(
        graph: Path | str,
        num_workers: int = 1,
        parallelism: str = "replicated",
        max_failures: int = 0,
        workspace: str = town,
        model: dict[str, Any] | None = None,
        folds: int = 0,
        **training: Any,
    ) -> PretrainGraphConfig:
        return PretrainGraphConfig.model_validate(
            {
                "workspace": workspace,
                "artifacts": {"graph": str(graph)},
                "model": {"embedding_dim": 8, "num_layers": 2, **(model or {})},
                "training": {**TRAINING, **training},
                "parallelism": parallelism,
                "folds": folds,
                "workers": {
                    "num_processes": num_workers,
                    "device": "cpu",
                    "max_failures": max_failures,
                },
            }
        )

    return make
