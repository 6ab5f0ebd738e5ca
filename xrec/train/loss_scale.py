"""Training in float16: DeepSpeed multiplies the loss by a scale, so that no gradient becomes zero.

The gradients are divided by the same scale before Adam sees them. If one of them is not finite,
DeepSpeed skips the step and halves the scale. After 1,000 steps without that it doubles the scale.
So the scale is a part of a run's state: it is in the checkpoints, and a run that goes on must have
it. DeepSpeed keeps it in one class at ZeRO stage 0 and in another at stages 1 to 3; the rule is the
same, and a scale can move from any stage to any other.

In float32 and bfloat16 there is no scale, and the functions here do nothing.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xrec.errors import ConfigError
from xrec.train.ray_worker import worker_device

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

FIRST_SCALE_POWER = 16
"""A run begins with the scale two to this power."""

LEAST_SCALE = 1
STEPS_TO_DOUBLE = 1000


@dataclass(frozen=True)
class LossScale:
    """What the loss is multiplied by, and the number of steps since one was last skipped."""

    scale: float
    steps_since_overflow: int


def float16_settings(dtype: torch.dtype) -> dict[str, Any]:
    """Return DeepSpeed's section `fp16`."""
    return {
        "enabled": dtype == torch.float16,
        "initial_scale_power": FIRST_SCALE_POWER,
        "loss_scale_window": STEPS_TO_DOUBLE,
        "min_loss_scale": LEAST_SCALE,
        # A step that was skipped is made again at once, so the scale must fall at the first one.
        "hysteresis": 1,
    }


def check_dtype(dtype: torch.dtype) -> None:
    """Raise ConfigError if DeepSpeed cannot train in `dtype` on this worker's device."""
    if dtype != torch.float16:
        return
    from deepspeed.accelerator import get_accelerator

    if not get_accelerator().is_fp16_supported():
        raise ConfigError(
            f"llm.dtype = float16: DeepSpeed cannot train in float16 on this worker's "
            f"{worker_device().type}; expected a GPU of compute capability 7.0 or more, or a CPU "
            "with AVX512-FP16 or AMX-FP16; set scaling.device=cuda, or llm.dtype=bfloat16 or "
            "float32"
        )


def prepare_loss_scale(engine: "DeepSpeedEngine") -> None:
    """Make a new engine leave to this module what the stages of DeepSpeed do differently.

    At stage 0 the engine divides gradients by the scale without having multiplied the loss
    (https://github.com/deepspeedai/DeepSpeed/pull/8393), so `scaled` multiplies it, and the engine
    must not do so in a later version either. At the other stages an engine whose scale cannot
    become smaller raises an error of no class of its own.
    """
    scaler = _scaler(engine)
    if scaler is None:
        return
    if engine.zero_optimization_stage() == 0:
        scaler.use_grad_scaling = False
    else:
        scaler.raise_error_at_min_scale = False


def scaled(engine: "DeepSpeedEngine", loss: Tensor) -> Tensor:
    """Return what `engine.backward` must get for `loss`, a float32 scalar."""
    scaler = _scaler(engine)
    if scaler is None or engine.zero_optimization_stage() != 0:
        return loss
    product: Tensor = loss * scaler.cur_scale
    return product


def loss_scale(engine: "DeepSpeedEngine") -> LossScale | None:
    """Return the scale, the same on every worker; None if the engine is not in float16."""
    scaler = _scaler(engine)
    if scaler is None:
        return None
    return LossScale(float(scaler.cur_scale), scaler.cur_iter - scaler.last_overflow_iter - 1)


def set_loss_scale(engine: "DeepSpeedEngine", value: LossScale) -> None:
    """Make the engine, which must be in float16, go on from `value`."""
    scaler = _scaler(engine)
    assert scaler is not None
    scaler.cur_scale = value.scale
    scaler.last_overflow_iter, scaler.cur_iter = -1, value.steps_since_overflow


def _scaler(engine: "DeepSpeedEngine") -> Any:
    """Return DeepSpeed's object with the scale; None if the engine is not in float16."""
    if not engine.fp16_enabled():
        return None
    name = "loss_scale_config" if engine.zero_optimization_stage() == 0 else "loss_scaler"
    return getattr(engine.optimizer, name)
