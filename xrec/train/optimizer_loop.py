"""Adam's state and the float32 weights of an engine's trainable parameters, whole, whatever the ZeRO stage and the number of workers.

Read from the engine of some workers, written into a fresh one of others. Every worker must call each function.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


@dataclass(frozen=True)
class WholeState:
    """A parameter as the optimizer holds it, and Adam's first and second moment: float32, of the parameter's shape."""

    weight: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


def whole_state(engine: "DeepSpeedEngine", parameter: nn.Parameter) -> WholeState:
    """The state of `parameter`, the same on every worker; `engine` has made a step."""
    if engine.zero_optimization_stage() == 0:
        master = _master(engine, parameter)
        moments = engine.basic_optimizer.state[master]
        return WholeState(master.detach(), moments["exp_avg"], moments["exp_avg_sq"])
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    moments = {
        key: safe_get_full_optimizer_state(parameter, key) for key in ("exp_avg", "exp_avg_sq")
    }
    return WholeState(safe_get_full_fp32_param(parameter), **moments)


def restore_states(
    engine: "DeepSpeedEngine", states: Mapping[nn.Parameter, WholeState], step: int
) -> None:
    """Put `engine`, which has made one step of any kind, where it was after `step` steps: weights, moments, learning rate.

    Adam has no state before its first step; what that step did is overwritten.
    """
    import deepspeed

    with torch.no_grad(), deepspeed.zero.GatheredParameters(list(states), modifier_rank=0):
        for parameter, state in states.items():
            parameter.copy_(state.weight)
    for parameter, state in states.items():
        _write(engine, parameter, state)
    for values in engine.basic_optimizer.state.values():
        values["step"].fill_(step)
    engine.lr_scheduler.last_epoch = step - 1
    engine.lr_scheduler.step()
    engine.global_steps = step


def _write(engine: "DeepSpeedEngine", parameter: Any, state: WholeState) -> None:
    from deepspeed import utils

    values = (
        state.weight.to(engine.device),
        state.exp_avg.to(engine.device),
        state.exp_avg_sq.to(engine.device),
    )
    match engine.zero_optimization_stage():
        case 0:
            master = _master(engine, parameter)
            moments = engine.basic_optimizer.state[master]
            for target, value in zip(
                (master.data, moments["exp_avg"], moments["exp_avg_sq"]), values, strict=True
            ):
                target.copy_(value)
        case 3:  # DeepSpeed's function for whole values fails where the elements do not divide among the workers
            weight, exp_avg, exp_avg_sq = (
                _own_part(value, parameter.ds_tensor.numel()) for value in values
            )
            utils.safe_set_local_fp32_param(parameter, weight)
            utils.safe_set_local_optimizer_state(parameter, exp_avg, "exp_avg")
            utils.safe_set_local_optimizer_state(parameter, exp_avg_sq, "exp_avg_sq")
        case _:
            utils.safe_set_full_fp32_param(parameter, values[0])
            utils.safe_set_full_optimizer_state(parameter, values[1], "exp_avg")
            utils.safe_set_full_optimizer_state(parameter, values[2], "exp_avg_sq")


def _own_part(value: Tensor, num_elements: int) -> Tensor:
    """This worker's part of a whole value, flat; zeros fill the last one up."""
    padded = functional.pad(
        value.flatten(), (0, num_elements * dist.get_world_size() - value.numel())
    )
    return padded.view(-1, num_elements)[dist.get_rank()]


def _master(engine: "DeepSpeedEngine", parameter: nn.Parameter) -> Tensor:
    """What the optimizer steps at stage 0: the parameter itself, or its float32 copy where the model is bfloat16."""
    wrapper = engine.optimizer
    if wrapper is engine.basic_optimizer:
        return parameter
    groups = zip(wrapper.fp16_groups, wrapper.fp32_groups, strict=True)
    masters: list[Tensor] = [
        high
        for lows, highs in groups
        for low, high in zip(lows, highs, strict=True)
        if low is parameter
    ]
    return masters[0]
