"""Adapter training goes on after kill -9 of a worker, the driver or a node.

The losses are those of an unbroken run of two workers at ZeRO stage 3.
"""

import os
import re
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.world.cluster import LocalCluster, kill_family, local_cluster, training_workers
from tests.world.program import at_message, driver
from tests.world.shop import write_project
from tests.xrec.train.adapter_town import (
    RANDOM,
    allow_float16,
    assert_same_losses,
    history_of,
    make_config,
)
from xrec.config.adapter import TrainAdapterConfig
from xrec.errors import ArtifactMismatchError, TrainingError
from xrec.storage import location_of
from xrec.train.adapter import train_adapter

pytestmark = pytest.mark.slow

# An epoch has 6 steps. One or two more steps may be made before the kill has its effect.
KILLED_AT = "epoch 2, step 10: checkpoint"
GOES_ON = r"epoch [23], step 1[0-4]: going on from the checkpoint, on {} workers"


@pytest.fixture(autouse=True)
def log_level(caplog):
    caplog.set_level("INFO", logger="xrec")


@pytest.fixture(autouse=True)
def any_number_of_workers(monkeypatch):
    """Let a config ask for three workers, among whom a step's four micro-batches do not divide.

    Elastic scaling may come to that number.
    """
    monkeypatch.setattr("xrec.train.adapter._check_batch_sizes", lambda config: None)


@pytest.fixture
def unbroken(workspace, trained_adapter):
    """The folder of the adapter that was trained without a break."""
    return f"{workspace}/adapter"


def random_config(workspace: str, adapter: Path, **settings: Any) -> TrainAdapterConfig:
    return make_config(workspace, adapter=adapter, model=RANDOM, steps_per_checkpoint=2, **settings)


def train_and_stop(config: TrainAdapterConfig) -> None:
    """Train until a worker is killed at step 10, of which the run dies."""
    with at_message(KILLED_AT, kill_a_worker), pytest.raises(TrainingError):
        train_adapter(config)


def kill_a_worker() -> None:
    training_workers(psutil.Process())[-1].kill()


def assert_went_on(log: str, num_workers: int) -> None:
    assert re.search(GOES_ON.format(num_workers), log), log
    assert log.count("epoch 1, step 2: checkpoint") == 1  # not trained again


def test_worker_killed_within_an_epoch_is_replaced_and_goes_on_from_the_checkpoint(
    workspace, unbroken, tmp_path, caplog
):
    config = random_config(
        workspace,
        tmp_path / "adapter",
        scaling={"max_failures": 1},
        deepspeed={"param_persistence_threshold": 300},  # some parameters are kept whole
    )
    with at_message(KILLED_AT, kill_a_worker):
        manifest = train_adapter(config)
    assert_went_on(caplog.text, num_workers=2)
    assert_same_losses(tmp_path / "adapter", unbroken)
    rows = history_of(tmp_path / "adapter")
    best = min(rows, key=lambda row: float(row["validation_loss"]))
    assert manifest.metrics.items() >= best.items()
    assert not (tmp_path / "adapter" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"num_workers": 1, "zero_stage": 1}, {"num_workers": 3}),
        ({"num_workers": 4}, {"num_workers": 1, "zero_stage": 1}),
        ({"zero_stage": 1}, {"num_workers": 3}),
        ({}, {"zero_stage": "auto"}),
    ],
)
def test_run_that_failed_goes_on_with_other_workers_at_another_zero_stage(
    workspace, unbroken, s3, tmp_path, caplog, before, after
):
    """Its checkpoints are on S3."""

    def config(sizes: dict[str, Any]) -> TrainAdapterConfig:
        given = random_config(workspace, tmp_path, **sizes)
        return given.model_copy(update={"adapter": uri, "storage": s3.storage})

    uri = f"{s3.new_bucket()}/run/adapter"
    train_and_stop(config(before))
    adapter = location_of(config(after), "adapter")
    assert any(name.endswith("state.safetensors") for name in adapter.files())
    train_adapter(config(after))
    assert_went_on(caplog.text, after.get("num_workers", 2))
    assert ("auto: deepspeed.zero_stage = 1" in caplog.text) == (after.get("zero_stage") == "auto")
    assert_same_losses(adapter, unbroken)
    assert not any(name.startswith("checkpoints") for name in adapter.files())


@pytest.mark.parametrize(
    ("dtype", "zero_stage"), [("bfloat16", 1), ("bfloat16", 3), ("float16", 1), ("float16", 3)]
)
def test_run_in_16_bits_that_was_stopped_is_bit_by_bit_that_of_an_unbroken_one(
    workspace, ray_cluster, tmp_path, monkeypatch, caplog, dtype, zero_stage
):
    # The loss scale falls and rises all the time. With a cache of beginnings, a run that goes on
    # would compute some of them in other batches, with other rounding.
    allow_float16(monkeypatch, first_scale_power=24, steps_to_double=3)
    settings: dict[str, Any] = {"dtype": dtype, "zero_stage": zero_stage, "prefix_cache_gib": 0}
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    train_adapter(random_config(workspace, unbroken, **settings))
    assert ("a gradient overflowed" in caplog.text) == (dtype == "float16")
    train_and_stop(random_config(workspace, broken, **settings))
    train_adapter(random_config(workspace, broken, **settings))
    rows, expected = (history_of(folder) for folder in (broken, unbroken))
    for name in ("step", "loss_scale", "train_loss", "validation_loss"):
        assert [row.get(name) for row in rows] == [row.get(name) for row in expected]
    contents = [(folder / "adapter.safetensors").read_bytes() for folder in (broken, unbroken)]
    assert contents[0] == contents[1]


def test_checkpoints_of_other_settings_are_refused_and_stay(workspace, unbroken, tmp_path):
    adapter = tmp_path / "adapter"
    train_and_stop(random_config(workspace, adapter))
    for change, message in (
        ({"seed": 7}, r"training\.seed: 0 there, 7 here"),
        ({"deepspeed": {"gradient_clipping": 0.5}}, r"gradient_clipping: 1\.0 there, 0\.5 here"),
    ):
        with pytest.raises(ArtifactMismatchError, match=message):
            train_adapter(random_config(workspace, adapter, **change))
    train_adapter(random_config(workspace, adapter))
    assert_same_losses(adapter, unbroken)


def test_driver_killed_and_started_again_goes_on_from_the_checkpoint(workspace, unbroken, tmp_path):
    log = tmp_path / "log"
    overrides = ("ray.num_cpus=4", "ray.address=local")
    given = random_config(workspace, tmp_path / "adapter")
    config = write_project(tmp_path / "project.yaml", given)
    with driver("train-adapter", config, log, *overrides) as process:
        wait_for(KILLED_AT, log, process)
        kill_family(process)
    assert not (tmp_path / "adapter" / "manifest.json").exists()
    with driver("train-adapter", config, log, *overrides) as process:
        assert process.wait(timeout=300) == 0, log.read_text()
    assert_went_on(log.read_text(), num_workers=2)
    assert_same_losses(tmp_path / "adapter", unbroken)


@pytest.fixture(scope="module")
def slow_steps(ray_cluster, workspace, tmp_path_factory):
    """The settings of a run of many steps, and its adapter of one worker.

    Many steps leave time to take a node away.
    """
    settings: dict[str, Any] = {
        "num_epochs": 8,
        "global_batch_size": 2,
        "micro_batch_size": 1,
        "learning_rate": {"peak": 0.01},
        "patience": 8,
    }
    adapter = tmp_path_factory.mktemp("slow_steps") / "adapter"
    train_adapter(make_config(workspace, num_workers=1, adapter=adapter, model=RANDOM, **settings))
    return settings, adapter


def test_node_lost_leaves_fewer_workers_which_go_on(workspace, slow_steps, tmp_path):
    settings, unbroken = slow_steps
    scaling = {"num_workers": 2, "min_workers": 1, "max_failures": 3}
    settings = {**settings, "scaling": scaling, "steps_per_checkpoint": 20}
    config = make_config(workspace, adapter=tmp_path / "adapter", model=RANDOM, **settings)
    log = tmp_path / "log"
    with (
        local_cluster(num_workers=1, cpus_per_node=1) as cluster,
        driver_on(cluster, write_project(tmp_path / "project.yaml", config), log) as process,
    ):
        wait_for("step 80: checkpoint", log, process)
        cluster.nodes[1].kill()
        assert process.wait(timeout=400) == 0, log.read_text()
    text = log.read_text()
    assert re.search(r"step \d+: going on from the checkpoint, on 1 workers", text), text
    assert text.count("step 20: checkpoint") == 1
    assert_same_losses(tmp_path / "adapter", unbroken)


def test_node_announced_to_be_taken_away_checkpoints_first(workspace, slow_steps, tmp_path):
    settings, unbroken = slow_steps
    settings = {**settings, "scaling": {"num_workers": 2, "max_failures": 1}}
    config = make_config(workspace, adapter=tmp_path / "adapter", model=RANDOM, **settings)
    log = tmp_path / "log"
    with (
        local_cluster(num_workers=2, cpus_per_node=1) as cluster,
        driver_on(cluster, write_project(tmp_path / "project.yaml", config), log) as process,
    ):
        wait_for("epoch 1, step", log, process)
        nodes = (node for node in cluster.nodes[1:] if training_workers(psutil.Process(node.pid)))
        victim = next(nodes)
        drain(cluster, victim.address)
        wait_for("checkpoint, because a node is to be taken away", log, process)
        victim.kill()
        assert process.wait(timeout=400) == 0, log.read_text()
    text = log.read_text()
    (noticed,) = re.findall(r"(epoch \d+, step \d+): checkpoint, because", text)
    assert f"{noticed}: going on from the checkpoint, on 2 workers" in text
    assert_same_losses(tmp_path / "adapter", unbroken)


def wait_for(text: str, log: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 240
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def driver_on(
    cluster: LocalCluster, config: Path, log: Path
) -> AbstractContextManager["subprocess.Popen[bytes]"]:
    variables = {**cluster.environment, "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2"}
    return driver(
        "train-adapter", config, log, f"ray.address={cluster.address}", variables=variables
    )


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
