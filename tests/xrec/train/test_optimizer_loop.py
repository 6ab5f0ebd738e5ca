"""Optimizer state moved between engines of all ZeRO stages, on two workers: the steps that follow are those of the engine that went on."""

from pathlib import Path
from typing import Any

import pytest

from xrec.config.shared import ScalingConfig
from xrec.storage import open_location
from xrec.train.ray_loop import fit

pytestmark = pytest.mark.usefixtures("ray_cluster")

STEPS_BEFORE, STEPS_AFTER = 3, 3


def weights_by_stage(config: dict[str, Any]) -> None:
    """Reports, for each pair of stages and each dtype, the weights after all steps: moved from the first to the second on the way."""
    import torch

    from xrec.train.optimizer_loop import restore_states, whole_state
    from xrec.train.worker_loop import initialize_engine, rank, report

    def build(stage: int, dtype: str) -> Any:
        torch.manual_seed(stage)  # each starts elsewhere: what is not restored differs
        module = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 1))
        module[1].requires_grad_(False)
        torch.nn.init.ones_(module[1].weight)
        torch.nn.init.zeros_(module[1].bias)
        optimizer = torch.optim.AdamW(module[0].parameters(), lr=0.1, weight_decay=0.1)
        settings = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 2,
            "gradient_clipping": 1.0,
            "bf16": {"enabled": dtype == "bfloat16"},
            "zero_optimization": {"stage": stage},
        }
        return initialize_engine(
            module,
            optimizer,
            settings,
            torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
        )

    def train(engine: Any, first: int, last: int) -> None:
        for step in range(first, last):
            for micro in range(2):
                row = torch.tensor(
                    [[1.0 + rank(), -step, 2.0 + micro]], dtype=engine.module[1].bias.dtype
                )
                engine.backward(engine(row).square().sum())
                engine.step()

    def trained(engine: Any) -> list[torch.nn.Parameter]:
        return [parameter for parameter in engine.module.parameters() if parameter.requires_grad]

    found: dict[str, list[float]] = {}
    for dtype in ("float32", "bfloat16"):
        for source in range(4):
            engine = build(source, dtype)
            train(engine, 0, config["before"])
            states = [whole_state(engine, parameter) for parameter in trained(engine)]
            states = [
                type(state)(*(tensor.clone() for tensor in vars(state).values()))
                for state in states
            ]
            train(engine, config["before"], config["before"] + config["after"])
            found[f"{dtype} {source}"] = _flat(engine, trained(engine))
            for target in range(4):
                other = build(target, dtype)
                train(other, 0, 1)
                restore_states(
                    other, dict(zip(trained(other), states, strict=True)), config["before"]
                )
                train(other, config["before"], config["before"] + config["after"])
                found[f"{dtype} {source} to {target}"] = _flat(other, trained(other))
    report({"found": found}, {"empty": b""})


def _flat(engine: Any, parameters: list[Any]) -> list[float]:
    from xrec.train.optimizer_loop import whole_state

    return [
        value
        for parameter in parameters
        for value in whole_state(engine, parameter).weight.flatten().tolist()
    ]


def test_states_restored_at_another_stage_go_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    config = {"before": STEPS_BEFORE, "after": STEPS_AFTER}
    scaling = ScalingConfig(num_workers=2, device="cpu", max_failures=0)
    found = fit(
        weights_by_stage, config, scaling=scaling, storage=open_location(str(tmp_path)), name="run"
    ).metrics["found"]
    assert len(found) == 2 * 4 * 5
    for moved in (name for name in found if " to " in name):
        tolerance = 1e-5 if moved.startswith("float32") else 0.02
        source, _ = moved.split(" to ")
        assert found[moved] == pytest.approx(found[source], rel=tolerance, abs=tolerance), moved
