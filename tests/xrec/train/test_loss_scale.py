"""Float16 by DeepSpeed on two workers: its loss scale at all ZeRO stages, and a step it skips."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.xrec.train.adapter_town import build_workspace, make_config
from tests.xrec.train.one_gpu_worker import StubEngine, become_worker
from xrec.config.shared import ScalingConfig
from xrec.errors import ConfigError, TrainingError
from xrec.storage import open_location
from xrec.train.adapter_worker import AdapterWorker
from xrec.train.data import load_adapter_data
from xrec.train.loss_scale import LossScale, check_dtype
from xrec.train.ray_driver import fit

STAGES = range(4)
FIRST = LossScale(8.0, 0)


def scales_by_stage(config: dict[str, Any]) -> None:
    """Report what engines of each stage do with gradients, with overflows and in the long run."""
    import torch
    from deepspeed.accelerator import get_accelerator

    from xrec.train.deepspeed_engine import initialize_engine, whole_state
    from xrec.train.loss_scale import (
        LossScale,
        float16_settings,
        loss_scale,
        scaled,
        set_loss_scale,
    )
    from xrec.train.ray_worker import rank, report

    get_accelerator().is_fp16_supported = lambda: True  # as allow_float16 of adapter_town

    def build(stage: int, dtype: torch.dtype) -> Any:
        torch.manual_seed(0)
        module = torch.nn.Linear(3, 2, bias=False)
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
        settings = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_clipping": 0.0,
            "fp16": float16_settings(dtype),
            "zero_optimization": {"stage": stage},
        }
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return initialize_engine(module, optimizer, settings, schedule)

    def step(engine: Any, factor: float = 1.0) -> bool:
        """Try a step; return whether it was made."""
        row = torch.tensor([[0.5, 1.0, 2.0 + rank()]], dtype=engine.module.weight.dtype)
        engine.backward(scaled(engine, engine(row).float().sum() * factor))
        engine.step()
        return bool(engine.was_step_applied())

    def scale(engine: Any) -> tuple[float, int]:
        return tuple(vars(loss_scale(engine)).values())

    def state(engine: Any) -> list[Any]:
        """All that a step changes but the scale."""
        (adam,) = engine.basic_optimizer.state.values()
        whole = whole_state(engine, engine.module.weight)
        tensors = [tensor.flatten().tolist() for tensor in vars(whole).values()]
        return [*tensors, float(adam["step"]), engine.get_lr()]

    found: dict[str, Any] = {}
    for stage in range(4):
        exact = build(stage, torch.float32)
        step(exact)
        engine = build(stage, torch.float16)
        first = scale(engine)
        step(engine, 1e-6)
        small = whole_state(engine, engine.module.weight).exp_avg.flatten().tolist()
        before = state(engine)
        skipped = not step(engine, 1e4)
        found[str(stage)] = {
            "no scale": loss_scale(exact) is None,
            "first": first,
            "gradient": whole_state(exact, exact.module.weight).exp_avg.flatten().tolist(),
            "small gradient": small,
            "skipped": skipped,
            "unchanged": state(engine) == before,
            "after overflow": scale(engine),
        }
        set_loss_scale(engine, LossScale(256.0, 999))
        found[str(stage)]["growth"] = [(step(engine), *scale(engine)) for _ in range(3)]
        set_loss_scale(engine, LossScale(1.0, 5))
        found[str(stage)]["least"] = (step(engine, 1e9), *scale(engine))
    report({"found": found}, {"empty": b""})


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_loss_scale_is_the_same_at_all_stages_and_a_skipped_step_leaves_no_trace(
    tmp_path: Path,
) -> None:
    scaling = ScalingConfig(num_workers=2, device="cpu", max_failures=0)
    found = fit(
        scales_by_stage, {}, scaling=scaling, storage=open_location(str(tmp_path)), name="run"
    ).metrics["found"]
    assert set(found) == {str(stage) for stage in STAGES}
    # Adam's first moment is a tenth of the gradient, which is the mean of both workers' rows.
    for seen in found.values():
        assert seen["no scale"]
        assert seen["first"] == (2.0**16, 0)
        assert seen["gradient"] == pytest.approx([0.05, 0.1, 0.25] * 2, rel=1e-5)
        # 1e-7 would be 0 in float16, or 16 % off, without a scale.
        assert seen["small gradient"] == pytest.approx([5e-8, 1e-7, 2.5e-7] * 2, rel=2e-3)
        assert seen["skipped"]
        assert seen["unchanged"]
        assert seen["after overflow"] == (2.0**15, 0)
        assert seen["growth"] == [(True, 256.0, 1000), (True, 512.0, 1001), (True, 512.0, 1002)]
        assert seen["least"] == (False, 1.0, 0)


def test_float16_on_a_device_without_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.train.torch.get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_fp16_supported", lambda: False)
    with pytest.raises(ConfigError, match=r"llm\.dtype = float16: .*this worker's cpu"):
        check_dtype(torch.float16)
    check_dtype(torch.bfloat16)
    check_dtype(torch.float32)


# The loop of the adapter, where the engine is a stand-in


class SkippingEngine(StubEngine):
    """Skips the steps of the numbers `overflows`, counted from 1 with those that it skips."""

    overflows: tuple[int, ...] = ()
    scale: LossScale | None = FIRST

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.rows: list[Any] = []
        self._num_tries = 0

    def __call__(self, examples: Any) -> Any:
        if self.module.training:
            self.rows.append((examples, torch.initial_seed()))
        return super().__call__(examples)

    def step(self) -> None:
        if self._num_backward % self._accumulation:
            return
        self._num_tries += 1
        if self.was_step_applied():
            super().step()
            return
        self.optimizer.zero_grad()
        if self.scale is not None:
            self.scale = LossScale(max(self.scale.scale / 2, 1.0), 0)

    def was_step_applied(self) -> bool:
        return self._num_tries not in self.overflows


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def train(workspace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Train for four steps on an engine that skips those of the given numbers."""

    def run(*overflows: int, scale: LossScale | None = FIRST) -> AdapterWorker:
        folder = tmp_path / "-".join(map(str, overflows))
        become_worker(monkeypatch, folder, torch.device("cpu"))
        monkeypatch.setattr("tests.xrec.train.one_gpu_worker.StubEngine", SkippingEngine)
        monkeypatch.setattr(SkippingEngine, "overflows", overflows)
        monkeypatch.setattr(SkippingEngine, "scale", scale)
        for module in ("adapter_passes", "adapter_worker"):
            monkeypatch.setattr(f"xrec.train.{module}.loss_scale", lambda engine: engine.scale)
            monkeypatch.setattr(f"xrec.train.{module}.note", lambda text: None)
        config = make_config(
            workspace,
            num_workers=1,
            zero_stage=0,
            max_steps=4,
            num_epochs=1,
            max_validation_pairs=4,
            model={"gating_noise": True, "dropout": 0.2},
        )
        worker = AdapterWorker(config, load_adapter_data(config), "run")
        worker.run_epoch()
        return worker

    return run


def test_skipped_step_is_made_again_with_the_same_rows_and_random_numbers(train: Any) -> None:
    unbroken, skipping = train(), train(2, 3, 5)
    (expected,), (row,) = unbroken.progress.history, skipping.progress.history
    for key in ("step", "train_loss", "validation_loss"):
        assert row[key] == expected[key]
    assert (expected["loss_scale"], row["loss_scale"]) == (8.0, 1.0)
    assert skipping._engine.get_lr() == unbroken._engine.get_lr()
    micro = len(unbroken._engine.rows) // 4  # passes of a step
    steps = [unbroken._engine.rows[start : start + micro] for start in range(0, 4 * micro, micro)]
    first, second, third, fourth = steps
    tried = [*first, *second, *second, *second, *third, *third, *fourth]
    assert skipping._engine.rows == tried


def test_gradient_that_overflows_at_the_least_scale_ends_the_run(train: Any) -> None:
    with pytest.raises(TrainingError, match=r"epoch 1, step 2: a gradient is not finite.*bfloat16"):
        train(2, 3, 4, 5)


def test_skipped_step_without_a_scale_ends_the_run(train: Any) -> None:
    with pytest.raises(TrainingError, match=r"epoch 1, step 1: a gradient is not finite; lower"):
        train(1, scale=None)
