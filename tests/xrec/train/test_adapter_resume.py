"""Adapter training goes on after kill -9 of a worker, the driver or a node, as if unbroken."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.errors import raises
from tests.world.cluster import LocalCluster, kill_family, local_cluster, training_workers
from tests.world.program import driver
from tests.world.shop import write_project
from tests.xrec.train.adapter_town import (
    RANDOM,
    assert_same_losses,
    float16_here,
    history_of,
    make_config,
)
from tests.xrec.train.conftest import KILLED_AT, worker_killed_at
from tests.xrec.train.worker import train_here
from xrec.config import TrainAdapterConfig
from xrec.errors import ArtifactMismatchError, TrainingError
from xrec.storage import location_of
from xrec.train.adapter import train_adapter
from xrec.train.memory import MOST_ON_CPU


@pytest.fixture(autouse=True)
def log_level(caplog):
    caplog.set_level("INFO", logger="xrec")


GOES_ON = r"epoch [23], step 1[0-4]: resuming from the checkpoint, on {} workers"


def assert_went_on(log: str, num_workers: int) -> None:
    """A driver that is killed at step 10 may leave a checkpoint or two more."""
    assert re.search(GOES_ON.format(num_workers), log), log
    assert log.count("epoch 1, step 2: checkpoint") == 1  # not trained again


def test_run_whose_worker_was_killed_goes_on_and_ends_as_an_unbroken_one(
    workspace, alone, trained_adapter
):
    assert_went_on(trained_adapter.log, num_workers=2)
    adapter = Path(workspace, "adapter")
    rows = history_of(adapter)
    assert_same_losses(rows, alone.history)
    best = min(rows, key=lambda row: float(row["validation_loss"]))
    assert trained_adapter.manifest.metrics.items() >= best.items()
    assert not (adapter / "checkpoints").exists()


# In this process


@pytest.mark.parametrize(
    ("dtype", "zero_stage"),
    [
        ("bfloat16", 1),
        ("float16", 3),
        pytest.param("bfloat16", 3, marks=pytest.mark.slow),
        pytest.param("float16", 1, marks=pytest.mark.slow),
    ],
)
def test_run_in_16_bits_that_was_stopped_is_bit_by_bit_that_of_an_unbroken_one(
    workspace, tmp_path, monkeypatch, dtype, zero_stage
):
    # The loss scale falls and rises all the time. With a cache of beginnings, a run that goes on
    # would compute some of them in other batches, with other rounding.
    float16_here(monkeypatch, first_scale_power=24, steps_to_double=3)
    config = random_config(
        workspace,
        tmp_path / "adapter",
        dtype=dtype,
        zero_stage=zero_stage,
        num_workers=1,
        num_epochs=2,  # of three steps
        global_batch_size=8,
        max_pairs=24,
        max_validation_pairs=4,
        prefix_cache_gib=0,
    )
    unbroken = train_here(tmp_path / "unbroken", config)
    assert any("overflowed" in note for note in unbroken.notes) == (dtype == "float16")
    stopped = train_here(tmp_path / "broken", config, lambda report: report.get("step") == 6)
    assert len(stopped.history) == 1
    broken = train_here(tmp_path / "broken", config)
    assert "epoch 2, step 4: resuming from the checkpoint, on 1 workers" in broken.notes
    names = ("step", "loss_scale", "train_loss", "validation_loss")
    for row, expected in zip(broken.history, unbroken.history, strict=True):
        assert [row.get(name) for name in names] == [expected.get(name) for name in names]
    for file in ("adapter.safetensors", "state.safetensors"):
        contents = [(each.checkpoint / file).read_bytes() for each in (broken, unbroken)]
        assert contents[0] == contents[1]


def test_run_that_goes_on_keeps_its_micro_batch_size_and_refuses_another_runs_checkpoint(
    workspace, tmp_path
):
    settings = {"num_workers": 1, "zero_stage": 1, "micro_batch_size": "auto"}
    config = random_config(workspace, tmp_path / "adapter", **settings, max_steps=2)
    first = train_here(tmp_path, config)
    assert [row["micro_batch_size"] for row in first.history] == [MOST_ON_CPU]
    assert any(note.startswith("step 1 of 2; epoch 1, loss ") for note in first.notes)
    progress = json.loads((first.checkpoint / "progress.json").read_text())
    (first.checkpoint / "progress.json").write_text(json.dumps({**progress, "micro_batch_size": 2}))
    longer = random_config(workspace, tmp_path / "adapter", **settings, max_steps=3)
    with raises(ArtifactMismatchError, "checkpoint_of_another_run", saw="run"):
        train_here(tmp_path, longer, run="another")
    again = train_here(tmp_path, longer)
    assert [row["micro_batch_size"] for row in again.history] == [MOST_ON_CPU, 2]
    assert "epoch 2, step 2: resuming from the checkpoint, on 1 workers" in again.notes


# On Ray


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"num_workers": 1, "zero_stage": 1}, {"num_workers": 3}),
        ({"num_workers": 4}, {"num_workers": 1, "zero_stage": 1}),
        ({"zero_stage": 1}, {"num_workers": 3}),
        ({}, {"zero_stage": None}),
    ],
)
def test_run_that_failed_goes_on_with_other_workers_at_another_zero_stage(
    workspace, alone, s3, tmp_path, caplog, monkeypatch, before, after
):
    """Its checkpoints are on S3."""

    def config(sizes: dict[str, Any]) -> TrainAdapterConfig:
        given = random_config(workspace, tmp_path, **sizes)
        return given.model_copy(update={"artifacts": {"adapter": uri}, "storage": s3.storage})

    # Elastic scaling may come to three workers, among whom a step's four micro-batches do not
    # divide.
    monkeypatch.setattr("xrec.train.adapter._check_batch_sizes", lambda config: None)
    uri = f"{s3.new_bucket()}/run/adapter"
    train_and_stop(config(before))
    adapter = location_of(config(after), "adapter")
    assert any(name.endswith("state.safetensors") for name in adapter.files())
    train_adapter(config(after))
    assert_went_on(caplog.text, after.get("num_workers", 2))
    is_chosen = "chose deepspeed.zero_optimization.stage = 1" in caplog.text
    assert is_chosen == ("zero_stage" in after and after["zero_stage"] is None)
    assert_same_losses(history_of(adapter), alone.history)
    assert not any(name.startswith("checkpoints") for name in adapter.files())


@pytest.mark.slow
def test_driver_killed_and_started_again_goes_on_from_the_checkpoint(workspace, alone, tmp_path):
    log = tmp_path / "log"
    overrides = ("ray.num_cpus=4", "ray.address=local")
    given = random_config(workspace, tmp_path / "adapter")
    config = write_project(tmp_path / "project.yaml", given)
    slow_reports = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "2"}  # to leave time for the kill
    with driver("train-adapter", config, log, *overrides, variables=slow_reports) as process:
        wait_for(KILLED_AT, log, process)
        kill_family(process)
    assert not (tmp_path / "adapter" / "manifest.json").exists()
    with driver("train-adapter", config, log, *overrides) as process:
        assert process.wait(timeout=300) == 0, log.read_text()
    assert_went_on(log.read_text(), num_workers=2)
    assert_same_losses(history_of(tmp_path / "adapter"), alone.history)


def random_config(workspace: str, adapter: Path, **settings: Any) -> TrainAdapterConfig:
    return make_config(
        workspace, adapter=adapter, model=RANDOM, **{"steps_per_checkpoint": 2, **settings}
    )


def train_and_stop(config: TrainAdapterConfig) -> None:
    """Train until a worker is killed at step 10, of which the run dies."""
    with worker_killed_at("adapter", KILLED_AT), pytest.raises(TrainingError):
        train_adapter(config)


# Nodes that are lost


@pytest.fixture(scope="module")
def slow_steps(ray_cluster, workspace, tmp_path_factory):
    """The settings of a run of many steps, and its adapter of one worker.

    Many steps leave time to take a node away.
    """
    settings: dict[str, Any] = {
        "num_epochs": 8,
        "global_batch_size": 2,
        "micro_batch_size": 1,
        "learning_rate": 0.01,
        "patience": 8,
    }
    adapter = tmp_path_factory.mktemp("slow_steps") / "adapter"
    train_adapter(make_config(workspace, num_workers=1, adapter=adapter, model=RANDOM, **settings))
    return settings, adapter


@contextmanager
def training_on_nodes(
    num_workers: int, config: TrainAdapterConfig, log: Path
) -> Iterator[tuple[LocalCluster, Callable[[str], None]]]:
    """Train on nodes of one CPU each, to the end; yields them, and what waits for a log line."""
    project = write_project(log.with_name("project.yaml"), config)
    with local_cluster(num_workers=num_workers, cpus_per_node=1) as cluster:
        address = f"ray.address={cluster.address}"
        variables = {**cluster.environment, "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2"}
        with driver("train-adapter", project, log, address, variables=variables) as process:
            yield cluster, lambda text: wait_for(text, log, process)
            assert process.wait(timeout=400) == 0, log.read_text()


@pytest.mark.slow
def test_node_lost_leaves_fewer_workers_which_go_on(workspace, slow_steps, tmp_path):
    (settings, unbroken), log = slow_steps, tmp_path / "log"
    workers = {"num_processes": 2, "min_processes": 1, "max_failures": 3}
    settings = {**settings, "workers": workers, "steps_per_checkpoint": 20}
    config = make_config(workspace, adapter=tmp_path / "adapter", model=RANDOM, **settings)
    with training_on_nodes(1, config, log) as (cluster, wait):
        wait("step 80: checkpoint")
        cluster.nodes[1].kill()
    text = log.read_text()
    assert re.search(r"step \d+: resuming from the checkpoint, on 1 workers", text), text
    assert text.count("step 20: checkpoint") == 1
    assert_same_losses(history_of(tmp_path / "adapter"), history_of(unbroken))


@pytest.mark.slow
def test_node_announced_to_be_taken_away_checkpoints_first(workspace, slow_steps, tmp_path):
    (settings, unbroken), log = slow_steps, tmp_path / "log"
    settings = {**settings, "workers": {"num_processes": 2, "max_failures": 1}}
    config = make_config(workspace, adapter=tmp_path / "adapter", model=RANDOM, **settings)
    with training_on_nodes(2, config, log) as (cluster, wait):
        wait("epoch 1, step")
        nodes = (node for node in cluster.nodes[1:] if training_workers(psutil.Process(node.pid)))
        victim = next(nodes)
        drain(cluster, victim.address)
        wait("checkpoint, because a node will be removed")
        victim.kill()
    text = log.read_text()
    (noticed,) = re.findall(r"(epoch \d+, step \d+): checkpoint, because", text)
    assert f"{noticed}: resuming from the checkpoint, on 2 workers" in text
    assert_same_losses(history_of(tmp_path / "adapter"), history_of(unbroken))


def wait_for(text: str, log: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 240
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def drain(cluster: LocalCluster, address: str) -> None:
    """Drain the node, as the autoscaler or KubeRay does after a provider's spot notice."""
    command = [
        str(Path(sys.executable).with_name("ray")),
        "drain-node",
        f"--address={cluster.address}",
        f"--node-id={cluster.alive()[address]}",
        "--reason=DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message=spot",
        "--deadline-remaining-seconds=20",
    ]
    environment = {**os.environ, **cluster.environment}
    subprocess.run(command, env=environment, check=True, timeout=60)
