"""What fits a worker's memory: the ZeRO stage and the micro-batch size, where they are `auto`.

`with_zero_stage` estimates, before weights are loaded, what the model takes. A frozen parameter is
its weight and nothing else; what is trained is counted by DeepSpeed's own estimators.
`with_micro_batch_size` tries steps over the longest rows, after weights are loaded.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from xrec.adapter.model import build_adapters
from xrec.config import TrainAdapterConfig
from xrec.errors import ConfigError, ModelError
from xrec.llm.loss import Example
from xrec.llm.model import read_text_config
from xrec.llm.source import resolve_model
from xrec.train.data import AdapterData
from xrec.train.deepspeed_engine import training_dtype
from xrec.train.ray_worker import (
    least_of_workers,
    local_world_size,
    note,
    worker_device,
    world_size,
)

SHARE_FOR_THE_MODEL = 0.75
"""Share of a worker's memory that weights and trained state may fill. The rest is for passes."""

SHARE_KEPT_FREE = 0.1
"""Share of a GPU's free memory that no trial step may take, because it is lost between blocks."""

MOST_ON_CPU = 8
"""The micro-batch size on a CPU at most, whose matrix products gain nothing from more rows."""

_MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def with_zero_stage(
    config: TrainAdapterConfig, data: AdapterData, memory: int | None = None
) -> TrainAdapterConfig:
    """Return `config` with a number as its ZeRO stage, and log why. Collective.

    memory: the bytes of this worker; by default they are looked up (`memory_of_a_worker`).

    Without a stage, it becomes 1 where the whole model fits each worker, else 3. Raises ModelError
    if the model fits at no stage, ConfigError if the size of hpZ's groups does not divide the
    workers on this node.
    """
    if local_world_size() % config.hpz_size:
        raise ConfigError(
            f"zero_hpz_partition_size = {config.hpz_size} in deepspeed.zero_optimization must "
            "divide the number of workers on each node, "
            f"saw {local_world_size()} on one; change one of them",
            code="group_spans_nodes",
            key="deepspeed.zero_optimization.zero_hpz_partition_size",
            saw=config.hpz_size,
        )
    if config.zero_stage is not None:
        return config
    if memory is None:
        memory = memory_of_a_worker(worker_device(), local_world_size())
    room = SHARE_FOR_THE_MODEL * least_of_workers(memory)
    bytes_by_stage = model_bytes(config, data, num_workers=world_size())
    if config.llm.quantization is not None:
        del bytes_by_stage[3]  # bitsandbytes' weights cannot be sharded
    sums = ", ".join(f"{size / 1e9:.2f} at {stage}" for stage, size in bytes_by_stage.items())
    text = f"the model takes, by ZeRO stage, {sums} of {room / 1e9:.2f} GB a worker"
    fitting = [stage for stage, size in bytes_by_stage.items() if size <= room]
    if not fitting:
        raise ModelError(
            f"{text}: it fits at none; raise workers.num_processes, take a smaller model, or set "
            "deepspeed.zero_optimization.offload_param={device: cpu}, which keeps the weights in "
            "the node's memory",
            code="model_does_not_fit",
            key="deepspeed.zero_optimization.stage",
        )
    note(f"{text}; chose deepspeed.zero_optimization.stage = {fitting[0]}")
    return config.with_zero_stage(fitting[0])


def model_bytes(
    config: TrainAdapterConfig, data: AdapterData, *, num_workers: int
) -> dict[int, int]:
    """Return, by ZeRO stage, what weights, adapters and Adam's state take of a worker, in bytes."""
    from deepspeed.runtime.zero import stage3, stage_1_and_2

    folder = resolve_model(config.llm, config.storage)
    with torch.device("meta"):
        text_config = read_text_config(folder)
        model = AutoModelForCausalLM.from_config(text_config)
        adapters = build_adapters(
            config.model,
            embedding_dim=data.graph.users.shape[1],
            hidden_size=text_config.hidden_size,
        )
    maps = (part for part in model.get_decoder().layers.modules() if isinstance(part, nn.Linear))
    is_int8 = config.llm.quantization is not None
    in_8_bits = sum(part.weight.numel() for part in maps) if is_int8 else 0
    rest = int(model.num_parameters()) - in_8_bits
    frozen = in_8_bits + rest * training_dtype(config).itemsize
    _, largest = stage3.model_to_params(model)
    parameters = [*adapters.user.parameters(), *adapters.item.parameters()]
    trained = sum(parameter.numel() for parameter in parameters)
    workers = {"num_gpus_per_node": num_workers, "cpu_offload": False}
    _, whole = stage_1_and_2.estimate_zero2_model_states_mem_needs(trained, **workers)
    _, sharded, _ = stage3.estimate_zero3_model_states_mem_needs(trained, largest, **workers)
    size = config.hpz_size
    copy = -(-frozen // size) if size > 1 else 0
    return {1: frozen + whole, 3: -(-frozen // num_workers) + copy + sharded}


def memory_of_a_worker(
    device: torch.device,
    num_local_workers: int,
    *,
    limits: Sequence[Path] = _MEMORY_LIMITS,
    node_bytes: int | None = None,
) -> int:
    """Return the bytes of a worker's GPU, or of its part of the node's memory.

    In a container, the node's memory is the container's limit, which is in one of the files
    `limits`. node_bytes: the machine's memory; by default it is looked up.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    texts = [file.read_text().strip() for file in limits if file.is_file()]
    sizes = [int(text) for text in texts if text.isdigit()]
    return min([node_bytes or int(psutil.virtual_memory().total), *sizes]) // num_local_workers


def with_micro_batch_size(
    config: TrainAdapterConfig,
    data: AdapterData,
    num_text_tokens: int,
    try_step: Callable[[Sequence[Example]], None],
) -> TrainAdapterConfig:
    """Return `config` with a number as its micro-batch size, and log why. Collective.

    A size of auto becomes the largest power of two that divides a worker's part of the global batch
    and with which `try_step`, forward and backward, fits every worker's GPU. No step is tried on a
    CPU, and none at ZeRO stage 3, where a worker that runs out of memory would leave the others
    waiting in the middle of a pass: the size is 1 there. Raises ModelError on each worker if not
    even one row fits.
    """
    if config.training.micro_batch_size != "auto":
        return config
    sizes = sizes_to_try(config)
    if config.zero_stage == 3:
        chosen, reason = 1, "no size is tried at ZeRO stage 3; a larger number may be faster"
    elif worker_device().type == "cpu":
        chosen, reason = max(size for size in sizes if size <= MOST_ON_CPU), "on a CPU"
    else:
        kept_bytes = int(config.training.prefix_cache_gib * 2**30)

        def go(size: int) -> None:
            with _kept_free(kept_bytes):
                try_step(longest_rows(data, size, num_text_tokens))

        chosen = largest_that_fits(sizes, go)
        reason = f"the largest of {', '.join(map(str, sizes))} whose step fits every worker"
    note(f"auto: training.micro_batch_size = {chosen}, {reason}")
    return with_size(config, chosen)


def with_size(config: TrainAdapterConfig, size: int) -> TrainAdapterConfig:
    """Return `config` with this micro-batch size."""
    training = config.training.model_copy(update={"micro_batch_size": size})
    return config.model_copy(update={"training": training})


def sizes_to_try(config: TrainAdapterConfig) -> list[int]:
    """Return the powers of two that divide a worker's part of the global batch, ascending.

    They are the same if fewer workers than `workers.num_processes` are at work.
    """
    part = config.training.global_batch_size // config.workers.num_processes
    return [2**power for power in range(part.bit_length()) if part % 2**power == 0]


@contextmanager
def _kept_free(num_bytes: int) -> Iterator[None]:
    """Fill so many bytes, and a share of the GPU's free memory, while the block runs.

    A training step has to leave them free, for what the training keeps beside it.
    """
    free, _ = torch.cuda.mem_get_info(worker_device())
    size = num_bytes + int(SHARE_KEPT_FREE * free)
    kept = torch.empty(size, dtype=torch.uint8, device=worker_device())
    yield
    del kept


def largest_that_fits(sizes: Sequence[int], go: Callable[[int], None]) -> int:
    """Return the largest of `sizes` (ascending) with which `go` fits every GPU. Collective.

    Raises ModelError on each worker if not even the smallest does.
    """
    from accelerate.utils import find_executable_batch_size

    smaller = iter([*reversed(sizes[:-1]), 0])

    def go_and_tell(size: int) -> int:
        go(size)
        return size

    largest_that_goes = find_executable_batch_size(
        go_and_tell, starting_batch_size=sizes[-1], reduce_batch_size_fn=lambda: next(smaller)
    )
    try:
        own = largest_that_goes()
    except RuntimeError as error:
        if "No executable batch size" not in str(error):
            raise
        own = 0
    chosen = int(least_of_workers(own))
    if chosen == 0:
        raise ModelError(
            "training.micro_batch_size = auto: a step over one row does not fit a worker's GPU; "
            "lower prompt.max_prompt_tokens or training.prefix_cache_gib, set "
            "training.gradient_checkpointing=true or deepspeed.zero_optimization.stage=3, or take "
            "a smaller model",
            code="row_does_not_fit",
            key="training.micro_batch_size",
            saw="auto",
        )
    return chosen


def longest_rows(data: AdapterData, num_rows: int, num_text_tokens: int) -> list[Example]:
    """Return rows of which a micro-batch takes as much memory as any of the examples can.

    Each has as many tokens before its first collaborative token, from there on, and in its
    explanation as the longest of all examples. The rows begin differently, so that each beginning
    is computed.
    """
    beginning, rest, num_labels = data.longest()
    after = [num_text_tokens, *[0] * (rest - num_labels - 1)]
    return [
        Example([row % num_text_tokens] * beginning + after, [0] * num_labels)
        for row in range(num_rows)
    ]
