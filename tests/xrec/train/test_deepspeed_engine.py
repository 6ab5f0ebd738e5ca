"""DeepSpeed's settings, and what its engines do on two workers at both ZeRO stages.

An engine with a restored state makes the steps of the engine that went on, a sum of gradients is
exact, and a step that is skipped in float16 leaves no trace.
"""

from typing import Any

import pytest
import torch

from xrec.config.adapter import TrainAdapterConfig
from xrec.config.shared import ScalingConfig
from xrec.storage import open_location
from xrec.train.deepspeed_engine import deepspeed_settings
from xrec.train.ray_driver import fit


def settings_of(world_size: int = 2, dtype: Any = torch.float32, **changes: Any) -> dict[str, Any]:
    config = {"workspace": "w", "llm": {"model": "m"}, "deepspeed": {"zero_stage": 1}, **changes}
    return deepspeed_settings(
        TrainAdapterConfig.model_validate(config), dtype=dtype, world_size=world_size
    )


@pytest.mark.parametrize(("world_size", "steps"), [(1, 6), (2, 3), (3, 2), (4, 2), (6, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_deepspeed_settings_accumulate_to_the_global_batch_in_the_number_format(
    world_size: int, steps: int, dtype: torch.dtype
) -> None:
    training = {"global_batch_size": 24, "micro_batch_size": 4}
    settings = settings_of(world_size, dtype, training=training)
    assert settings["train_micro_batch_size_per_gpu"] == 4
    assert settings["gradient_accumulation_steps"] == steps
    assert settings["bf16"]["enabled"] == (dtype == torch.bfloat16)
    assert settings["fp16"]["enabled"] == (dtype == torch.float16)
    assert settings["data_types"] == {"grad_accum_dtype": "fp32"}


def test_deepspeed_settings_have_the_zero_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu = {"device": "cpu", "pin_memory": False}
    expected = {
        "stage": 3,
        "stage3_param_persistence_threshold": 100_000,
        "stage3_max_live_parameters": 1_000_000_000,
        "stage3_max_reuse_distance": 1_000_000_000,
        "offload_optimizer": on_cpu,
        "offload_param": on_cpu,
    }
    found = settings_of(deepspeed={"zero_stage": 3, "offload": "cpu"})
    assert found["zero_optimization"] == expected
    assert settings_of(deepspeed={"zero_stage": 1})["zero_optimization"] == {"stage": 1}


STEPS_BEFORE, STEPS_AFTER, NUM_MICRO_BATCHES = 3, 3, 512


def engines(config: dict[str, Any]) -> None:
    """Report what engines of both stages and all number formats do in this worker."""
    import torch
    from deepspeed.accelerator import get_accelerator

    from xrec.train.deepspeed_engine import (
        initialize_engine,
        loss_scale,
        number_settings,
        restore_states,
        set_loss_scale,
        whole_state,
    )
    from xrec.train.ray_worker import rank, report

    get_accelerator().is_fp16_supported = lambda: True  # as allow_float16 of adapter_town

    def build(stage: int, dtype: str, seed: int = 0, accumulation: int = 2) -> Any:
        torch.manual_seed(seed)
        module = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 1, bias=False))
        module[1].requires_grad_(False)
        torch.nn.init.ones_(module[1].weight)
        optimizer = torch.optim.AdamW(module[0].parameters(), lr=0.1, weight_decay=0.1)
        settings = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": accumulation,
            "gradient_clipping": 0.0 if accumulation > 2 else 1.0,
            "zero_optimization": {"stage": stage},
            **number_settings(getattr(torch, dtype)),
        }
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return initialize_engine(module, optimizer, settings, schedule)

    def row(engine: Any, *values: float) -> Any:
        return torch.tensor([values], dtype=engine.module[1].weight.dtype)

    def try_step(engine: Any, step: int, factor: float = 1.0) -> bool:
        for micro in range(2):
            out = engine(row(engine, 1.0 + rank(), -step, 2.0 + micro))
            engine.backward(out.float().square().sum() * factor)
            engine.step()
        return bool(engine.was_step_applied())

    def train(engine: Any, first: int, last: int) -> None:
        for step in range(first, last):
            while not try_step(engine, step):  # the first loss scales in float16 are too large
                pass

    def trained(engine: Any) -> list[Any]:
        return list(engine.module[0].parameters())

    def weights(engine: Any) -> list[float]:
        states = [whole_state(parameter) for parameter in trained(engine)]
        return [value for state in states for value in state.weight.flatten().tolist()]

    def moved() -> dict[str, list[float]]:
        """The weights after all steps: of an engine that goes on, and of one that is restored."""
        found, before, after = {}, config["before"], config["before"] + config["after"]
        for dtype in ("float32", "bfloat16", "float16"):
            for source in (1, 3):
                engine = build(source, dtype)
                train(engine, 0, before)
                states = [whole_state(parameter) for parameter in trained(engine)]
                states = [
                    type(state)(*(tensor.clone() for tensor in vars(state).values()))
                    for state in states
                ]
                train(engine, before, after)
                found[f"{dtype} {source}"] = weights(engine)
                for target in (1, 3):
                    other = build(target, dtype, seed=1)  # what is not restored would differ
                    restore_states(
                        other,
                        dict(zip(trained(other), states, strict=True)),
                        before,
                        lambda: other(row(other, 1, 1, 1)).float().sum() * 0,  # noqa: B023
                    )
                    train(other, before, after)
                    found[f"{dtype} {source} to {target}"] = weights(other)
        return found

    def gradient_of_many(stage: int) -> list[float]:
        """Adam's first moment, a tenth of the gradient, after many equal micro-batches."""
        engine = build(stage, "bfloat16", accumulation=config["micro_batches"])
        for _ in range(config["micro_batches"]):
            engine.backward(engine(row(engine, 1.0, 0.5, 1.25)).float().sum())
            engine.step()
        return whole_state(engine.module[0].weight).exp_avg.flatten().tolist()

    def float16(stage: int) -> dict[str, Any]:
        def state() -> list[Any]:
            """All that a step changes but the scale."""
            (adam,) = engine.basic_optimizer.state.values()
            return [weights(engine), float(adam["step"]), engine.get_lr()]

        engine = build(stage, "float16")
        first = loss_scale(engine)
        set_loss_scale(engine, (256.0, 0))
        train(engine, 0, 1)
        before = state()
        seen = {
            "first": first,
            "skipped": not try_step(engine, 1, factor=1e4),
            "unchanged": state() == before,
            "after overflow": loss_scale(engine),
        }
        set_loss_scale(engine, (256.0, 999))
        seen["growth"] = [(try_step(engine, 1), *loss_scale(engine)) for _ in range(2)]
        seen["none in float32"] = loss_scale(build(stage, "float32")) is None
        return seen

    found = {
        "moved": moved(),
        "gradients": [gradient_of_many(stage) for stage in (1, 3)],
        "float16": [float16(stage) for stage in (1, 3)],
    }
    report({"found": found}, {"empty": b""})


@pytest.fixture(scope="module")
def found(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    config = {
        "before": STEPS_BEFORE,
        "after": STEPS_AFTER,
        "micro_batches": NUM_MICRO_BATCHES,
    }
    scaling = ScalingConfig(num_workers=2, device="cpu", max_failures=0)
    storage = open_location(str(tmp_path_factory.mktemp("engines")))
    metrics = fit(engines, config, scaling=scaling, storage=storage, name="run").metrics
    seen: dict[str, Any] = metrics["found"]
    return seen


@pytest.mark.slow
def test_states_restored_at_either_stage_go_on_as_if_nothing_had_happened(
    found: dict[str, Any],
) -> None:
    weights = found["moved"]
    assert len(weights) == 3 * 2 * 3
    for moved in (name for name in weights if " to " in name):
        tolerance = 1e-5 if moved.startswith("float32") else 1e-3
        source, _ = moved.split(" to ")
        assert weights[moved] == pytest.approx(weights[source], rel=tolerance, abs=tolerance), moved


@pytest.mark.slow
def test_gradient_of_many_micro_batches_in_bfloat16_is_their_exact_mean(
    found: dict[str, Any],
) -> None:
    for gradient in found["gradients"]:
        assert gradient == pytest.approx([0.1, 0.05, 0.125] * 5, rel=1e-3)


@pytest.mark.slow
def test_loss_scale_is_the_same_at_both_stages_and_a_skipped_step_leaves_no_trace(
    found: dict[str, Any],
) -> None:
    for seen in found["float16"]:
        assert seen["first"] == (2.0**16, 0)
        assert seen["skipped"]
        assert seen["unchanged"]
        assert seen["after overflow"] == (128.0, 0)
        assert seen["growth"] == [(True, 256.0, 1000), (True, 512.0, 1001)]
        assert seen["none in float32"]
