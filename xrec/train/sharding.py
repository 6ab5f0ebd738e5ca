"""A worker's choice of the ZeRO stage, before any weight is loaded (see xrec.train.memory)."""

from typing import TYPE_CHECKING

from xrec.config.adapter import TrainAdapterConfig
from xrec.llm.model import read_text_config, resolve_dtype
from xrec.llm.prefix import can_split
from xrec.llm.source import resolve_model
from xrec.train.memory import (
    Load,
    ModelShape,
    choose_sharding,
    device_memory,
    empty_model,
    num_trained_parameters,
    shape_of,
)
from xrec.train.prefix_cache import PartLengths
from xrec.train.ray_worker import (
    least_of_workers,
    local_world_size,
    note,
    worker_device,
    world_size,
)

if TYPE_CHECKING:
    from xrec.train.data import AdapterData


def with_sharding(config: TrainAdapterConfig, data: "AdapterData") -> TrainAdapterConfig:
    """Return `config` with a number as its ZeRO stage, and log the sum. Collective.

    All workers choose the same: the one with least memory counts. If the micro-batch size is auto,
    the sum is for one row. Raises ModelError if the model fits at no stage.
    """
    asked = config.deepspeed.zero_stage
    if config.deepspeed.offload != "none":
        # What is offloaded waits in the node's memory, or on its disk, and is not counted here.
        return _with_stage(config, 3 if asked == "auto" else asked)
    shape, load = estimate_inputs(config, data)
    sharding = choose_sharding(
        shape,
        load,
        num_workers=world_size(),
        available=int(least_of_workers(device_memory(worker_device(), local_world_size()))),
        asked=None if asked == "auto" else asked,
    )
    note(sharding.explanation)
    return _with_stage(config, sharding.stage)


def _with_stage(config: TrainAdapterConfig, stage: int) -> TrainAdapterConfig:
    deepspeed = config.deepspeed.model_copy(update={"zero_stage": stage})
    return config.model_copy(update={"deepspeed": deepspeed})


def estimate_inputs(config: TrainAdapterConfig, data: "AdapterData") -> tuple[ModelShape, Load]:
    """Return what the estimate is made from: the model's shape, and the longest of all rows."""
    folder = resolve_model(config.llm.model, config.llm.cache_dir, config.storage)
    model = empty_model(read_text_config(folder))
    shape, training = shape_of(model), config.training
    dtype_bytes = resolve_dtype(config.llm.dtype, worker_device()).itemsize
    examples = [*data.train, *data.validation]
    longest_row = max(map(len, examples))
    lengths = PartLengths.of(examples, shape.vocab_size)
    splits = not training.gradient_checkpointing and can_split(model, lengths.longest_batch)
    # No more than all beginnings can be kept.
    cached = sum(lengths.beginnings) * shape.num_layers * 2 * shape.key_value_size * dtype_bytes
    return shape, Load(
        micro_batch_size=1 if training.micro_batch_size == "auto" else training.micro_batch_size,
        longest_row=longest_row,
        longest_rest=max(lengths.rests) if splits else longest_row,
        longest_beginning=max(lengths.beginnings) if splits else 0,
        longest_explanation=max(len(row.label_ids) for row in examples),
        num_trained=num_trained_parameters(
            config.model,
            embedding_dim=data.graph.users.shape[1],
            hidden_size=shape.hidden_size,
        ),
        dtype_bytes=dtype_bytes,
        gradient_checkpointing=training.gradient_checkpointing,
        prefix_cache_bytes=min(int(training.prefix_cache_gib * 2**30), cached) if splits else 0,
        max_live_parameters=config.deepspeed.max_live_parameters,
        is_int8=config.llm.quantization == "int8",
    )
