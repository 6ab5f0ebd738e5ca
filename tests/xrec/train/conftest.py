"""A small town's dataset, and configs of graph pretraining on it."""

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from jobs.prepare import run as prepare_dataset
from xrec.config.data import PrepareConfig
from xrec.config.graph import PretrainGraphConfig

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

MakeGraphConfig = Callable[..., PretrainGraphConfig]


@pytest.fixture(autouse=True, scope="module")
def no_cpu_is_held_by_earlier_tests() -> None:
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
def town(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A workspace with the town's dataset."""
    workspace = str(tmp_path_factory.mktemp("town"))
    prepare_dataset(PrepareConfig.model_validate({"workspace": workspace, "source": TOWN}))
    return workspace


@pytest.fixture(scope="session")
def make_graph_config(town: str) -> MakeGraphConfig:
    """Makes configs of a graph of the town at `graph`; other keywords go into `training`."""

    def make(
        graph: Path | str,
        num_workers: int = 1,
        parallelism: str = "replicated",
        max_failures: int = 0,
        **training: Any,
    ) -> PretrainGraphConfig:
        return PretrainGraphConfig.model_validate(
            {
                "workspace": town,
                "graph": str(graph),
                "model": {"embedding_dim": 8, "num_layers": 2},
                "training": {**TRAINING, **training},
                "parallelism": parallelism,
                "scaling": {
                    "num_workers": num_workers,
                    "device": "cpu",
                    "max_failures": max_failures,
                },
            }
        )

    return make
