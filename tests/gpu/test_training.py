"""Training of adapters and graphs on a GPU, also after a stop, has the losses of a CPU."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.world.workspace import build_workspace
from tests.xrec.train.adapter_town import OFFLOAD, allow_float16, make_config
from tests.xrec.train.conftest import metrics_of, worker_killed_at
from xrec.config import PretrainGraphConfig
from xrec.errors import TrainingError
from xrec.train.adapter import train_adapter
from xrec.train.graph import pretrain_graph

pytestmark = pytest.mark.usefixtures("ray_cluster")

NUM_STEPS = 20
# In 16 bits, the rounding of each step adds up.
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.01}
DTYPES = list(TOLERANCES)
NEEDS_INT8 = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="the extra int8 is not installed"
)
Rows = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def logged_and_with_float16(device, caplog, monkeypatch):
    """Log the driver's messages, at one of which a worker is killed, and allow float16."""
    caplog.set_level("INFO", logger="xrec")
    if device == "cpu":  # most CPUs are refused
        allow_float16(monkeypatch)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return build_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def on_cpu(ray_cluster, workspace, tmp_path_factory):
    """The rows of one worker on a CPU, in float32 at stage 1."""
    return train(workspace, tmp_path_factory.mktemp("cpu") / "adapter", "cpu", zero_stage=1)


def train(
    workspace: str, adapter: Path, device: str, quantization: str | None = None, **settings: Any
) -> Rows:
    """Train for 20 steps, by default with one worker, and return the rows of the epochs."""
    config = make_config(
        workspace,
        adapter=adapter,
        workers={"device": device},
        num_epochs=10,
        patience=10,
        max_steps=NUM_STEPS,
        steps_per_checkpoint=2,
        **{"num_workers": 1, **settings},
    )
    llm = config.llm.model_copy(update={"quantization": quantization})
    train_adapter(config.model_copy(update={"llm": llm}))
    rows: Rows = json.loads((adapter / "history.json").read_text())
    return rows


def assert_same_losses(rows: Rows, expected: Rows, tolerance: float) -> None:
    assert rows[-1]["step"] == NUM_STEPS
    for name in ("train_loss", "validation_loss"):
        assert [row[name] for row in rows] == pytest.approx(
            [row[name] for row in expected], rel=tolerance
        )


CASES = [
    *(({"zero_stage": n, "dtype": dtype}, TOLERANCES[dtype]) for n in (1, 3) for dtype in DTYPES),
    ({"zero_stage": 1, "gradient_checkpointing": True}, 1e-3),
    ({"zero_stage": 3, "zero": OFFLOAD}, 1e-3),
    ({"zero_stage": None, "micro_batch_size": "auto"}, 0.1),  # other pairs share a step
    pytest.param({"zero_stage": 1, "quantization": "int8"}, 0.1, marks=NEEDS_INT8),
]


@pytest.mark.parametrize(("settings", "tolerance"), CASES)
def test_20_steps_have_the_losses_of_a_cpu(
    workspace, on_cpu, tmp_path, device, settings, tolerance
):
    rows = train(workspace, tmp_path / "adapter", device, **settings)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert_same_losses(rows, on_cpu, tolerance)


@pytest.mark.usefixtures("skip_without_gpus")
@pytest.mark.parametrize(("settings", "tolerance"), CASES[:6])
def test_two_workers_have_the_losses_of_one(
    workspace, on_cpu, tmp_path, device, settings, tolerance
):
    rows = train(workspace, tmp_path / "adapter", device, num_workers=2, **settings)
    assert_same_losses(rows, on_cpu, tolerance)


def train_and_kill(workspace: str, adapter: Path, device: str, **settings: Any) -> None:
    """Train until a worker is killed, which ends the run."""
    with worker_killed_at("adapter", "step 10: checkpoint"), pytest.raises(TrainingError):
        train(workspace, adapter, device, **settings)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("begins_on_cpus", "zero_stage"), [(False, 1), (False, 3), (True, 1)])
def test_stopped_run_resumes_on_the_same_or_another_device(
    workspace, on_cpu, tmp_path, monkeypatch, device, begins_on_cpus, zero_stage, dtype
):
    adapter, settings = tmp_path / "adapter", {"zero_stage": zero_stage, "dtype": dtype}
    if begins_on_cpus:
        allow_float16(monkeypatch)
        before = {"zero_stage": 3, "num_workers": 2, "dtype": dtype}
        train_and_kill(workspace, adapter, "cpu", **before)
    else:
        train_and_kill(workspace, adapter, device, **settings)
    rows = train(workspace, adapter, device, **settings)
    assert_same_losses(rows, on_cpu, TOLERANCES[dtype])


def train_graph(town: str, graph: Path, device: str, num_workers: int = 1, **values: Any) -> Rows:
    """Train for 4 epochs and return their rows; `values` are keys of the config."""
    training = {
        "num_epochs": 4,
        "steps_per_epoch": 4,
        "micro_batch_size": 31,
        "learning_rate": 0.05,
        "l2_weight": 1e-2,
        "loss": values.pop("loss", "sampled_softmax"),
    }
    config = {
        "workspace": town,
        "artifacts": {"graph": str(graph)},
        "model": {"embedding_dim": 8, "num_layers": 2},
        "training": training,
        "folds": 0,
        "workers": {"num_processes": num_workers, "device": device, "max_failures": 0},
        **values,
    }
    pretrain_graph(PretrainGraphConfig.model_validate(config))
    return metrics_of(graph)


def assert_same_rows(rows: Rows, expected: Rows) -> None:
    assert len(rows) == 4
    for row, other in zip(rows, expected, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-3)
        # Near ties may swap places.
        assert row["ndcg@20"] == pytest.approx(other["ndcg@20"], abs=0.02)


@pytest.mark.parametrize("loss", ["sampled_softmax", "bpr"])
def test_one_worker_has_the_losses_of_a_cpu(town, tmp_path, device, loss):
    expected = train_graph(town, tmp_path / "cpu", "cpu", loss=loss)
    rows = train_graph(town, tmp_path / "one", device, loss=loss)
    assert_same_rows(rows, expected)
