"""DeepSpeed: its settings, an engine on a worker, and whole tensors of it at any ZeRO stage.

`whole_state` reads Adam's state and the float32 weights from an engine, and `restore_states` writes
them into a fresh one, which may have another number of workers or another stage. Functions that are
marked as collective must be called by every worker.

DeepSpeed takes seconds to import. The driver imports this module too and does not need DeepSpeed,
so it is imported in the functions.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from xrec.adapter.model import Adapters
from xrec.config.adapter import DeepSpeedConfig, TrainAdapterConfig
from xrec.errors import TrainingError
from xrec.llm.model import load_model, resolve_attention, resolve_dtype
from xrec.llm.source import resolve_model
from xrec.train.loss_scale import float16_settings, prepare_loss_scale
from xrec.train.ray_worker import worker_device, world_size

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


def adapter_settings(config: TrainAdapterConfig) -> dict[str, Any]:
    """Return DeepSpeed's settings for the adapter's training, on a worker."""
    return deepspeed_settings(config, dtype=training_dtype(config), world_size=world_size())


def deepspeed_settings(
    config: TrainAdapterConfig, *, dtype: torch.dtype, world_size: int
) -> dict[str, Any]:
    """Return DeepSpeed's settings for the adapter's training on `world_size` workers.

    The global batch is the same for any number of workers.
    """
    training = config.training
    assert training.micro_batch_size != "auto"  # xrec.train.micro_batch has put a number there
    return {
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        "gradient_accumulation_steps": math.ceil(
            training.global_batch_size / (training.micro_batch_size * world_size)
        ),
        "gradient_clipping": config.deepspeed.gradient_clipping,
        "zero_optimization": _zero_optimization(config.deepspeed),
        # Otherwise offloading takes DeepSpeed's own Adam, which is compiled at its first use.
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "fp16": float16_settings(dtype),
        "steps_per_print": 1_000_000_000,
    }


def _zero_optimization(config: DeepSpeedConfig) -> dict[str, Any]:
    assert config.zero_stage != "auto"  # xrec.train.sharding has put a stage there
    settings: dict[str, Any] = {"stage": config.zero_stage}
    if config.zero_stage == 3:
        settings["stage3_param_persistence_threshold"] = config.param_persistence_threshold
        settings["stage3_max_live_parameters"] = config.max_live_parameters
        settings["stage3_max_reuse_distance"] = config.max_live_parameters
    if config.offload != "none":
        device: dict[str, Any] = {"device": config.offload, "pin_memory": torch.cuda.is_available()}
        if config.offload_path is not None:
            device["nvme_path"] = config.offload_path
        settings["offload_optimizer"] = device
        if config.zero_stage == 3:
            settings["offload_param"] = device
    return settings


def sharded_loading(settings: Mapping[str, Any]) -> HfDeepSpeedConfig | None:
    """At ZeRO stage 3, return an object that makes `from_pretrained` shard weights while it lives.

    Each worker then keeps its own shard of each weight only. At other stages the result is None.
    """
    if settings["zero_optimization"]["stage"] != 3:
        return None
    return HfDeepSpeedConfig(dict(settings))


def load_frozen_model(config: TrainAdapterConfig) -> PreTrainedModel:
    """Return the language model on this worker's device.

    At stage 3 it has this worker's shard of each weight only. Call `init_deepspeed` before.
    """
    folder = resolve_model(config.llm.model, config.llm.cache_dir, config.storage)
    is_sharded = config.deepspeed.zero_stage == 3
    sharding = sharded_loading(adapter_settings(config)) if is_sharded else None
    attention = resolve_attention(config.llm.attn_implementation, worker_device())
    model = load_model(
        folder,
        dtype=training_dtype(config),
        device=None if is_sharded else worker_device(),
        attn_implementation=attention,
        quantization=config.llm.quantization,
    )
    del sharding
    move_to_device(model, worker_device())
    return model


def move_to_device(module: nn.Module, device: torch.device) -> None:
    """Move parameters and buffers to `device` in place, but no parameter that ZeRO-3 has sharded.

    DeepSpeed moves a module itself, but not one with a sharded parameter: what was not sharded,
    such as buffers and adapters, would then stay where it was made.
    """
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            if not _is_sharded(parameter) and parameter.device != device:
                parameter.data = parameter.data.to(device)
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = buffer.to(device)


def check_device(module: nn.Module, device: torch.device) -> None:
    """Raise TrainingError if a parameter or buffer is not on `device`, and name the tensor.

    Parameters that ZeRO-3 has sharded are left out: DeepSpeed keeps their shards where the settings
    of offloading say.
    """
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if not _is_sharded(tensor) and tensor.device != device:
            raise TrainingError(
                f"{name} is on {tensor.device}, expected {device}, this worker's device; "
                "training would mix devices: call move_to_device before an engine is made"
            )


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "ds_tensor")


def training_dtype(config: TrainAdapterConfig) -> torch.dtype:
    """Return the type of the frozen model's and the adapters' weights on this worker."""
    return resolve_dtype(config.llm.dtype, worker_device())


def init_deepspeed() -> None:
    """Start DeepSpeed's communication over the process group that Ray Train has set up.

    Call it before weights are sharded or an engine is made.
    """
    import deepspeed

    on_cpu = worker_device().type == "cpu"
    if on_cpu:
        # Otherwise DeepSpeed compiles it, which needs g++ and a minute.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.logger.setLevel(logging.WARNING)
    deepspeed.init_distributed(dist_backend="gloo" if on_cpu else "nccl", verbose=False)


def initialize_engine(
    module: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    settings: Mapping[str, Any],
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    mpu: Any = None,
) -> "DeepSpeedEngine":
    """Return a DeepSpeed engine over `module`, which must be on this worker's device.

    The engine steps `lr_scheduler` after each optimizer step. `settings` are DeepSpeed's and need
    `train_micro_batch_size_per_gpu`. Give an optimizer of torch: DeepSpeed's own ones compile C++
    at their first use. `mpu`, Megatron's name for it, says which workers hold different parts of
    the model (`RowsApart`); without it all workers hold the same, and gradients are averaged.
    Raises TrainingError as `check_device` does.
    """
    import deepspeed

    check_device(module, worker_device())
    init_deepspeed()
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=optimizer,
        lr_scheduler=lr_scheduler,
        config=dict(settings),
        dist_init_required=False,
        mpu=mpu,
    )
    _forget_first_step(engine)
    prepare_loss_scale(engine)
    return engine


def _forget_first_step(engine: "DeepSpeedEngine") -> None:
    """Undo the step that DeepSpeed makes when it builds an optimizer for 16 bits at stage 0.

    Its gradients are zero, but Adam counts it, so that the first true step would be a quarter
    shorter, and weight decay shrinks the float32 weights. The other stages make no such step.
    """
    if engine.zero_optimization_stage() == 0 and engine.optimizer is not engine.basic_optimizer:
        engine.basic_optimizer.state.clear()
        engine.optimizer.refresh_fp32_params()


class RowsApart:
    """An `mpu` for DeepSpeed: each worker is the only one that holds its part of the model."""

    def __init__(self) -> None:
        # Every process must make all groups.
        alone: list[dist.ProcessGroup] = [
            dist.new_group([rank]) for rank in range(dist.get_world_size())
        ]
        self._alone: dist.ProcessGroup = alone[dist.get_rank()]

    def get_model_parallel_group(self) -> Any:
        return dist.group.WORLD

    def get_model_parallel_world_size(self) -> int:
        return dist.get_world_size()

    def get_model_parallel_rank(self) -> int:
        return dist.get_rank()

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        return self._alone

    def get_data_parallel_group_ranks(self) -> list[int]:
        return [dist.get_rank()]

    def get_data_parallel_world_size(self) -> int:
        return 1

    def get_data_parallel_rank(self) -> int:
        return 0


def gathered(parameters: Iterable[nn.Parameter]) -> AbstractContextManager[Any]:
    """A context in which the parameters are whole, whatever the ZeRO stage. Collective."""
    import deepspeed

    context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(list(parameters))
    return context


def gathered_state(adapters: Adapters) -> dict[str, Tensor]:
    """Return the adapters' whole tensors, whatever the ZeRO stage. Collective."""
    with gathered([*adapters.user.parameters(), *adapters.item.parameters()]):
        return {name: tensor.clone() for name, tensor in adapters.state_dict().items()}


@dataclass(frozen=True)
class WholeState:
    """A parameter as the optimizer holds it, and Adam's first and second moment.

    All are float32 and of the parameter's shape.
    """

    weight: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


def whole_state(engine: "DeepSpeedEngine", parameter: nn.Parameter) -> WholeState:
    """Return the state of `parameter`, the same on every worker. Collective.

    The engine must have made a step: Adam has no state before.
    """
    if engine.zero_optimization_stage() == 0:
        master = _master(engine, parameter)
        moments = engine.basic_optimizer.state[master]
        return WholeState(master.detach(), moments["exp_avg"], moments["exp_avg_sq"])
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    return WholeState(
        safe_get_full_fp32_param(parameter),
        exp_avg=safe_get_full_optimizer_state(parameter, "exp_avg"),
        exp_avg_sq=safe_get_full_optimizer_state(parameter, "exp_avg_sq"),
    )


def restore_states(
    engine: "DeepSpeedEngine", states: Mapping[nn.Parameter, WholeState], step: int
) -> None:
    """Set weights, moments and learning rate to what they were after `step` steps. Collective.

    The engine must have made one step, of any kind, so that Adam has a state to be overwritten.
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

    weight, exp_avg, exp_avg_sq = (
        value.to(engine.device) for value in (state.weight, state.exp_avg, state.exp_avg_sq)
    )
    match engine.zero_optimization_stage():
        case 0:
            master = _master(engine, parameter)
            moments = engine.basic_optimizer.state[master]
            master.data.copy_(weight)
            moments["exp_avg"].copy_(exp_avg)
            moments["exp_avg_sq"].copy_(exp_avg_sq)
        case 3:
            # DeepSpeed's functions for whole values fail if the elements do not divide equally
            # among the workers.
            size = parameter.ds_tensor.numel()
            utils.safe_set_local_fp32_param(parameter, _own_part(weight, size))
            for key, value in (("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq)):
                utils.safe_set_local_optimizer_state(parameter, _own_part(value, size), key)
        case _:
            utils.safe_set_full_fp32_param(parameter, weight)
            utils.safe_set_full_optimizer_state(parameter, exp_avg, "exp_avg")
            utils.safe_set_full_optimizer_state(parameter, exp_avg_sq, "exp_avg_sq")


def _own_part(value: Tensor, num_elements: int) -> Tensor:
    """Return this worker's part of a whole value, flat; the last part is filled up with zeros."""
    padded = functional.pad(
        value.flatten(), (0, num_elements * dist.get_world_size() - value.numel())
    )
    return padded.view(-1, num_elements)[dist.get_rank()]


def _master(engine: "DeepSpeedEngine", parameter: nn.Parameter) -> Tensor:
    """Return what the optimizer steps at stage 0.

    This is the parameter itself, or its float32 copy where the model has 16 bits.
    """
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
