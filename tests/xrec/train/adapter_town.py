"""Configs, data and comparisons of adapter trainings in a town of 40 users."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ray.train.v2._internal.execution.train_fn_utils import LocalTrainFnUtils, set_train_fn_utils

from tests.world.workspace import PROMPT
from xrec.config import TrainAdapterConfig
from xrec.storage import Location, open_location
from xrec.train.data import AdapterData, load_adapter_data
from xrec.train.example_shards import write_examples

RANDOM = {"gating_noise": True, "dropout": 0.2}
TRAINING = {
    "num_epochs": 3,
    "global_batch_size": 16,
    "micro_batch_size": 4,
    "learning_rate": 0.02,
    "prefix_cache_gib": 1e-3,  # only a part of a worker's rows has room in it
}


OFFLOAD = {f"offload_{what}": {"device": "cpu"} for what in ("optimizer", "param")}


def make_config(
    workspace: str,
    *,
    num_workers: int = 2,
    zero_stage: int | None = 3,
    adapter: Path | str | None = None,
    model: dict[str, Any] | None = None,
    zero: dict[str, Any] | None = None,
    workers: dict[str, Any] | None = None,
    dtype: str = "float32",
    **training: Any,
) -> TrainAdapterConfig:
    """Return a config of the town's adapter; other keywords go into section `training`."""
    given = {"stage": zero_stage} if zero_stage else {}
    # The town's weights are all small, but stage 3 is to shard them.
    zero = {**given, "stage3_param_persistence_threshold": 0, **(zero or {})}
    workers = {"num_processes": num_workers, "device": "cpu", "max_failures": 0, **(workers or {})}
    return TrainAdapterConfig.model_validate(
        {
            "workspace": workspace,
            "artifacts": {"adapter": str(adapter)} if adapter else {},
            "llm": {"model": f"{workspace}/llm", "dtype": dtype},
            "prompt": PROMPT,
            "model": {"num_experts": 2, "num_tokens": 2, "gating_noise": False, **(model or {})},
            "training": {**TRAINING, **training},
            "deepspeed": {"zero_optimization": zero},
            "workers": workers,
        }
    )


def adapter_data(config: TrainAdapterConfig) -> AdapterData:
    """Write the examples of `config` in this process, and read them."""
    write_examples(config, {}, {})
    return load_here(config)


def load_here(config: TrainAdapterConfig) -> AdapterData:
    """Read what a worker on its own reads."""
    set_train_fn_utils(LocalTrainFnUtils("alone"))
    try:
        return load_adapter_data(config)
    finally:
        set_train_fn_utils(None)


def history_of(adapter: Location | Path | str) -> list[dict[str, Any]]:
    """Return the rows of the adapter's epochs."""
    folder = adapter if isinstance(adapter, Location) else open_location(str(adapter))
    return list(json.loads((folder / "history.json").read_text()))


def assert_same_losses(
    rows: Sequence[Mapping[str, Any]],
    expected: Sequence[Mapping[str, Any]],
    tolerance: float = 1e-4,
) -> None:
    """Compare the epochs' losses; the last epoch's depend on all steps."""
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for name in ("train_loss", "validation_loss"):
        values = [row[name] for row in rows]
        assert values == pytest.approx([row[name] for row in expected], rel=tolerance)


def allow_float16(monkeypatch: pytest.MonkeyPatch, *, first_scale_power: int = 16) -> None:
    """Have workers on a CPU train in float16, with the first loss scale 2 ** `first_scale_power`.

    DeepSpeed refuses CPUs without fast instructions for it; torch can use any.
    """

    def train_worker(loop_config: dict[str, Any]) -> None:
        from deepspeed.accelerator import get_accelerator

        from xrec.train import adapter_worker, deepspeed_engine

        get_accelerator().is_fp16_supported = lambda: True
        deepspeed_engine.FIRST_SCALE_POWER = first_scale_power
        adapter_worker.train_worker(loop_config)

    monkeypatch.setattr("xrec.train.adapter.train_worker", train_worker)


def float16_here(
    monkeypatch: pytest.MonkeyPatch, *, first_scale_power: int, steps_to_double: int
) -> None:
    """Do the same for a worker in this process; the scale doubles after `steps_to_double`."""
    from deepspeed.accelerator import get_accelerator

    monkeypatch.setattr(get_accelerator(), "is_fp16_supported", lambda: True)
    monkeypatch.setattr("xrec.train.deepspeed_engine.FIRST_SCALE_POWER", first_scale_power)
    monkeypatch.setattr("xrec.train.deepspeed_engine.STEPS_TO_DOUBLE", steps_to_double)
