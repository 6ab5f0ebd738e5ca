"""Adapter training resumes after kill -9 of a worker, the driver or a node, and ends the same."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.errors import raises
from tests.world.cluster import LocalCluster, kill_family, local_cluster, training_workers
from tests.world.program import driver, wait_until
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

RESUMED = r"epoch [23], step 1[0-4]: resuming from the checkpoint, on {} workers"


def assert_resumed(log: str, num_workers: int) -> None:
    """A driver that is killed at step 10 may leave a checkpoint or two more."""
    assert re.search(RESUMED.format(num_workers), log), log
    assert log.count("epoch 1, step 2: checkpoint") == 1  # not trained again


def test_run_whose_worker_was_killed_resumes_and_ends_like_an_uninterrupted_one(
    workspace, alone, trained_adapter
):
    (resumed,) = [line for line in trained_adapter.log if "resuming" in line]
    assert resumed == "epoch 2, step 10: resuming from the checkpoint, on 1 workers"
    assert not any(line.startswith("epoch 1, ") for line in trained_adapter.log)
    assert_same_losses(history_of(f"{workspace}/adapter"), alone.history)


# In this process


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("zero_stage", [1, 3])
def test_resumed_run_in_16_bits_has_every_bit_of_an_uninterrupted_one(
    workspace, tmp_path, monkeypatch, dtype, zero_stage
):
    # The loss scale falls and rises all the time. With a cache of prefixes, a resumed run would
    # compute some of them in other batches, with other rounding.
    float16_here(monkeypatch, first_scale_power=18, steps_to_double=3)
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
    whole = train_here(tmp_path / "whole", config)
    assert any("overflowed" in note for note in whole.notes) == (dtype == "float16")
    stopped = train_here(tmp_path / "resumed", config, lambda report: report.get("step") == 6)
    assert len(stopped.history) == 1
    resumed = train_here(tmp_path / "resumed", config)
    assert "epoch 2, step 4: resuming from the checkpoint, on 1 workers" in resumed.notes
    names = ("step", "loss_scale", "train_loss", "validation_loss")
    for row, expected in zip(resumed.history, whole.history, strict=True):
        assert [row.get(name) for name in names] == [expected.get(name) for name in names]
    for file in ("adapter.safetensors", "state.safetensors"):
        assert (resumed.checkpoint / file).read_bytes() == (whole.checkpoint / file).read_bytes()


def test_resumed_run_keeps_its_micro_batch_size_and_refuses_another_runs_checkpoint(
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
def test_ray_replaces_a_worker_that_was_killed(workspace, alone, ray_cluster, tmp_path):
    config = random_config(workspace, tmp_path, workers={"max_failures": 1})
    with worker_killed_at("adapter", KILLED_AT) as log:
        train_adapter(config)
    assert_resumed("\n".join(log), num_workers=2)
    assert_same_losses(history_of(tmp_path), alone.history)


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
def test_run_that_failed_resumes_with_other_workers_at_another_zero_stage(
    workspace, alone, s3, tmp_path, caplog, monkeypatch, before, after
):
    """Its checkpoints are on S3."""
    caplog.set_level("INFO", logger="xrec")

    def config(sizes: dict[str, Any]) -> TrainAdapterConfig:
        given = random_config(workspace, tmp_path, **sizes)
        return given.model_copy(update={"artifacts": {"adapter": uri}, "storage": s3.storage})

    # Elastic scaling may arrive at three workers, which cannot share a step's micro-batches evenly.
    monkeypatch.setattr("xrec.train.adapter.check_batch_sizes", lambda config: None)
    uri = f"{s3.new_bucket()}/run/adapter"
    with worker_killed_at("adapter", KILLED_AT), pytest.raises(TrainingError):
        train_adapter(config(before))
    adapter = location_of(config(after), "adapter")
    assert any(name.endswith("state.safetensors") for name in adapter.files())
    train_adapter(config(after))
    assert_resumed(caplog.text, after.get("num_workers", 2))
    is_chosen = "chose deepspeed.zero_optimization.stage = 1" in caplog.text
    assert is_chosen == ("zero_stage" in after and after["zero_stage"] is None)
    assert_same_losses(history_of(adapter), alone.history)
    assert not any(name.startswith("checkpoints") for name in adapter.files())


@pytest.mark.slow
def test_driver_that_was_killed_resumes_from_the_checkpoint(workspace, alone, tmp_path):
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
    assert_resumed(log.read_text(), num_workers=2)
    assert_same_losses(history_of(tmp_path / "adapter"), alone.history)


def random_config(workspace: str, adapter: Path, **settings: Any) -> TrainAdapterConfig:
    return make_config(
        workspace, adapter=adapter, model=RANDOM, **{"steps_per_checkpoint": 2, **settings}
    )


# Nodes that are lost


@pytest.fixture(scope="module")
def slow_steps(ray_cluster, workspace, tmp_path_factory):
    """The settings of a run with time to take a node away, and its adapter by one worker."""
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
    """Train to the end on nodes of one CPU each; yield them, and what waits for a log line."""
    project = write_project(log.with_name("project.yaml"), config)
    with local_cluster(num_workers=num_workers, cpus_per_node=1) as cluster:
        address = f"ray.address={cluster.address}"
        variables = {**cluster.environment, "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2"}
        with driver("train-adapter", project, log, address, variables=variables) as process:
            yield cluster, lambda text: wait_for(text, log, process)
            assert process.wait(timeout=400) == 0, log.read_text()


@pytest.mark.slow
def test_run_that_loses_a_node_resumes_with_fewer_workers(workspace, slow_steps, tmp_path):
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
def test_run_writes_a_checkpoint_before_an_announced_removal_of_a_node(
    workspace, slow_steps, tmp_path
):
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
    wait_until(lambda: text in log.read_text() or process.poll() is not None, seconds=240)
    assert text in log.read_text(), log.read_text()


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
