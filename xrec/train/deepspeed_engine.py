"""DeepSpeed: its settings, a worker's engine, and whole tensors of it at either ZeRO stage.

ZeRO stage 1 shards Adam's state among the workers, and stage 3 the frozen weights too.
`whole_state` reads Adam's state and the float32 weights from an engine, and `restore_states` writes
them into a new one, which may have another number of workers or the other stage. Every worker must
call the functions marked as collective.

DeepSpeed and transformers take seconds to import, and drivers do not need them, so they are
imported inside functions.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from xrec.config import TrainAdapterConfig, merged
from xrec.train.checkpoint import LossScale, WholeState
from xrec.train.ray_worker import worker_device

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from transformers import PreTrainedModel

    from xrec.adapter.model import Adapters

FIRST_SCALE_POWER = 16
"""The initial loss scale in float16, as a power of two."""

_MOMENTS = ("exp_avg", "exp_avg_sq")

DEFAULT_CLIPPING = 1.0
"""The largest global norm of a gradient; `deepspeed.gradient_clipping` overrides it."""

STEPS_TO_DOUBLE = 1000
"""Number of steps without overflow after which DeepSpeed doubles the loss scale."""


def deepspeed_settings(
    config: TrainAdapterConfig, *, dtype: torch.dtype, world_size: int
) -> dict[str, Any]:
    """Return DeepSpeed's settings for training the adapter on `world_size` workers."""
    training = config.training
    assert training.micro_batch_size != "auto"  # xrec.train.memory has chosen one
    ours = {
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        "gradient_accumulation_steps": math.ceil(
            training.global_batch_size / (training.micro_batch_size * world_size)
        ),
        "gradient_clipping": DEFAULT_CLIPPING,
        # Otherwise offloading uses DeepSpeed's own Adam, which is compiled at its first use.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
        **number_settings(dtype),
    }
    return merged(ours, {**config.deepspeed, "zero_optimization": _zero_optimization(config)})


def number_settings(dtype: torch.dtype) -> dict[str, Any]:
    """Return the sections of DeepSpeed's settings on number formats.

    Gradients are summed in float32: in bfloat16 their sum is wrong by 0.6 % after 16 micro-batches,
    and by 2 to 4 % after 512.
    """
    return {
        "bf16": {"enabled": dtype == torch.bfloat16},
        "fp16": {
            "enabled": dtype == torch.float16,
            "initial_scale_power": FIRST_SCALE_POWER,
            "loss_scale_window": STEPS_TO_DOUBLE,
            # A skipped step is repeated at once, so the scale must fall at the first overflow.
            "hysteresis": 1,
        },
        "data_types": {"grad_accum_dtype": "fp32"},
    }


def _zero_optimization(config: TrainAdapterConfig) -> dict[str, Any]:
    assert config.zero_stage is not None  # xrec.train.memory has chosen one
    pinned = {"pin_memory": torch.cuda.is_available()}
    offloads = {name: pinned for name in config.zero if name.startswith("offload_")}
    return {**merged(offloads, config.zero), "stage": config.zero_stage}


def load_frozen_model(config: TrainAdapterConfig) -> "PreTrainedModel":
    """Return the language model on this worker's device; call `init_deepspeed` first.

    At stage 3 it has only this worker's shard of each weight.
    """
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    from xrec.llm.model import load_model, resolve_attention
    from xrec.llm.source import resolve_model

    dtype, device = training_dtype(config), worker_device()
    is_sharded = config.zero_stage == 3
    settings = {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed requires a size
        "zero_optimization": _zero_optimization(config),
        **number_settings(dtype),
    }
    # `from_pretrained` shards weights while this object exists.
    sharding = HfDeepSpeedConfig(settings) if is_sharded else None
    model = load_model(
        resolve_model(config.llm, config.storage),
        dtype=dtype,
        device=None if is_sharded else device,
        attn_implementation=resolve_attention(config.llm.attn_implementation, device),
        quantization=config.llm.quantization,
    )
    del sharding
    move_to_device(model, device)
    return model


def move_to_device(module: nn.Module, device: torch.device) -> None:
    """Move parameters and buffers to `device` in place, except parameters sharded by ZeRO-3.

    DeepSpeed moves whole modules, but not one with a sharded parameter, whose buffers and adapters
    would stay behind.
    """
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            if not hasattr(parameter, "ds_tensor") and parameter.device != device:
                parameter.data = parameter.data.to(device)
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = buffer.to(device)


def training_dtype(config: TrainAdapterConfig) -> torch.dtype:
    """Return the dtype of the frozen model's and the adapters' weights on this worker."""
    from xrec.llm.model import resolve_dtype

    return resolve_dtype(config.llm.dtype, worker_device())


def init_deepspeed() -> None:
    """Start DeepSpeed's communication over Ray Train's process group, before anything else."""
    import deepspeed

    on_cpu = worker_device().type == "cpu"
    if on_cpu:
        # Otherwise DeepSpeed compiles this op, which takes a minute and g++.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.logger.setLevel(logging.WARNING)
    deepspeed.init_distributed(dist_backend="gloo" if on_cpu else "nccl", verbose=False)


def initialize_engine(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Mapping[str, Any],
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler,
    mpu: Any = None,
) -> "DeepSpeedEngine":
    """Return a DeepSpeed engine over `module`, which must be on this worker's device.

    The engine steps `lr_scheduler` after each optimizer step. The optimizer should be torch's;
    DeepSpeed's own compile C++ at their first use. `mpu` (Megatron's term) says which workers hold
    different parts of the model; without it all hold the same, and gradients are averaged.
    """
    import deepspeed

    init_deepspeed()
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=optimizer,
        lr_scheduler=lr_scheduler,
        config=dict(settings),
        dist_init_required=False,
        mpu=mpu,
    )
    return engine


def loss_scale(engine: "DeepSpeedEngine") -> LossScale | None:
    """Return the loss scale, the same on every worker; None unless the engine is in float16."""
    if not engine.fp16_enabled():
        return None
    scaler = engine.optimizer.loss_scaler
    return float(scaler.cur_scale), scaler.cur_iter - scaler.last_overflow_iter - 1


def set_loss_scale(engine: "DeepSpeedEngine", value: LossScale) -> None:
    """Set the loss scale of an engine in float16."""
    scaler = engine.optimizer.loss_scaler
    scaler.cur_scale, scaler.cur_iter = value
    scaler.last_overflow_iter = -1


def gathered(parameters: Iterable[nn.Parameter]) -> AbstractContextManager[Any]:
    """Return a context in which the parameters are whole at any ZeRO stage. Collective."""
    import deepspeed

    context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(list(parameters))
    return context


def gathered_state(adapters: "Adapters") -> dict[str, Tensor]:
    """Return the adapters' whole tensors at any ZeRO stage. Collective."""
    with gathered([*adapters.user.parameters(), *adapters.item.parameters()]):
        return {name: tensor.clone() for name, tensor in adapters.state_dict().items()}


def whole_state(parameter: nn.Parameter) -> WholeState:
    """Return the state of `parameter`, the same on every worker, after a step. Collective."""
    from deepspeed import utils

    moments = [utils.safe_get_full_optimizer_state(parameter, key) for key in _MOMENTS]
    return WholeState(utils.safe_get_full_fp32_param(parameter), *moments)


def restore_states(
    engine: "DeepSpeedEngine",
    states: Mapping[nn.Parameter, WholeState],
    step: int,
    zero_loss: Callable[[], Tensor],
) -> None:
    """Restore weights, moments, and learning rate of a new engine after `step` steps. Collective.

    Adam has no state before its first step, so a step with zero gradients, those of `zero_loss`, is
    made first.
    """
    import deepspeed

    for _ in range(engine.gradient_accumulation_steps()):
        engine.backward(zero_loss())
        engine.step()
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

    values = {key: value.to(engine.device) for key, value in vars(state).items()}
    set_param, set_moment = utils.safe_set_full_fp32_param, utils.safe_set_full_optimizer_state
    if engine.zero_optimization_stage() == 3:
        # DeepSpeed's functions for whole values fail unless the elements divide equally among the
        # workers.
        set_param = utils.safe_set_local_fp32_param
        set_moment = utils.safe_set_local_optimizer_state
        size = parameter.ds_tensor.numel()
        missing = size * dist.get_world_size() - state.weight.numel()  # the last shard is padded
        values = {
            key: functional.pad(value.flatten(), (0, missing)).view(-1, size)[dist.get_rank()]
            for key, value in values.items()
        }
    set_param(parameter, values["weight"])
    for key in _MOMENTS:
        set_moment(parameter, values[key], key)
