"""What fits a worker's memory: the ZeRO stage and the micro-batch size, where they are `auto`.

Before the weights are loaded, `with_zero_stage` estimates the model's memory: frozen parameters
take only their weights, and DeepSpeed's estimators count what is trained. After that,
`with_micro_batch_size` tries steps over the longest rows.
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
"""Share of a worker's memory for weights and trained state. The rest is for passes."""

SHARE_KEPT_FREE = 0.1
"""Share of a GPU's memory that trial steps must leave free, because of fragmentation."""

MOST_ON_CPU = 8
"""Maximum automatic micro-batch size on a CPU; more rows are no faster there."""

_MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def with_zero_stage(
    config: TrainAdapterConfig, data: AdapterData, memory: int | None = None
) -> TrainAdapterConfig:
    """Return `config` with a number as its ZeRO stage, and log the reason. Collective.

    A missing stage becomes 1 if the whole model fits each worker, else 3. Raises ModelError if the
    model fits at no stage, ConfigError if hpZ's group size does not divide the workers on a node.

    memory: bytes of this worker; by default, `memory_of_a_worker`.
    """
    if local_world_size() % config.hpz_size:
        raise ConfigError(
            f"deepspeed.zero_optimization.zero_hpz_partition_size = {config.hpz_size} must divide "
            f"the number of workers on each node, but one has {local_world_size()}; change one",
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
    text = f"by ZeRO stage the model takes {sums} of {room / 1e9:.2f} GB per worker"
    fitting = [stage for stage, size in bytes_by_stage.items() if size <= room]
    if not fitting:
        raise ModelError(
            f"{text}, so it fits at none; raise workers.num_processes, use a smaller model, or "
            "keep the weights in the node's memory with "
            "deepspeed.zero_optimization.offload_param={device: cpu}",
            code="model_does_not_fit",
            key="deepspeed.zero_optimization.stage",
        )
    note(f"{text}; chose deepspeed.zero_optimization.stage = {fitting[0]}")
    return config.with_zero_stage(fitting[0])


def model_bytes(
    config: TrainAdapterConfig, data: AdapterData, *, num_workers: int
) -> dict[int, int]:
    """Return the bytes of weights, adapters, and Adam's state per worker, by ZeRO stage."""
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
    """Return the bytes of a worker's GPU, or of its share of the node's memory.

    limits: files that may contain a container's memory limit. node_bytes: the machine's memory; by
    default, that of this machine.
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
    """Return `config` with a number as its micro-batch size, and log the reason. Collective.

    A size of auto becomes the largest power of two that divides a worker's part of the global batch
    and for which `try_step` fits every worker's GPU. Nothing is tried on a CPU, nor at ZeRO stage
    3, where a worker that runs out of memory would leave the others waiting in a pass; the size is
    1 there. Raises ModelError on each worker if not even one row fits.
    """
    if config.training.micro_batch_size != "auto":
        return config
    sizes = sizes_to_try(config)
    if config.zero_stage == 3:
        chosen, reason = 1, "without trials at ZeRO stage 3; a larger number may be faster"
    elif worker_device().type == "cpu":
        chosen, reason = max(size for size in sizes if size <= MOST_ON_CPU), "on a CPU"
    else:
        kept_bytes = int(config.training.prefix_cache_gib * 2**30)

        def try_size(size: int) -> None:
            with _kept_free(kept_bytes):
                try_step(longest_rows(data, size, num_text_tokens))

        chosen = largest_that_fits(sizes, try_size)
        reason = f"the largest of {', '.join(map(str, sizes))} that fits every worker"
    note(f"auto: training.micro_batch_size = {chosen}, {reason}")
    return with_size(config, chosen)


def with_size(config: TrainAdapterConfig, size: int) -> TrainAdapterConfig:
    """Return `config` with this micro-batch size."""
    training = config.training.model_copy(update={"micro_batch_size": size})
    return config.model_copy(update={"training": training})


def sizes_to_try(config: TrainAdapterConfig) -> list[int]:
    """Return the powers of two that divide a worker's part of the global batch, ascending.

    They do not depend on how many of the `workers.num_processes` workers are running.
    """
    part = config.training.global_batch_size // config.workers.num_processes
    return [2**power for power in range(part.bit_length()) if part % 2**power == 0]


@contextmanager
def _kept_free(num_bytes: int) -> Iterator[None]:
    """Occupy so many bytes, and a share of the GPU's memory, that a step must leave free."""
    _, total = torch.cuda.mem_get_info(worker_device())
    size = num_bytes + int(SHARE_KEPT_FREE * total)
    kept = torch.empty(size, dtype=torch.uint8, device=worker_device())
    yield
    del kept


def largest_that_fits(sizes: Sequence[int], try_size: Callable[[int], None]) -> int:
    """Return the largest of `sizes` (ascending) for which `try_size` fits every GPU. Collective.

    Raises ModelError on each worker if not even the smallest does.
    """
    from accelerate.utils import find_executable_batch_size

    smaller = iter([*reversed(sizes[:-1]), 0])

    def tried(size: int) -> int:
        try_size(size)
        return size

    largest = find_executable_batch_size(
        tried, starting_batch_size=sizes[-1], reduce_batch_size_fn=lambda: next(smaller)
    )
    try:
        own = largest()
    except RuntimeError as error:
        if "No executable batch size" not in str(error):
            raise
        own = 0
    chosen = int(least_of_workers(own))
    if chosen == 0:
        raise ModelError(
            "training.micro_batch_size = auto: not even a step over one row fits a worker's GPU; "
            "lower prompt.max_prompt_tokens or training.prefix_cache_gib, set "
            "training.gradient_checkpointing=true or deepspeed.zero_optimization.stage=3, or use "
            "a smaller model",
            code="row_does_not_fit",
            key="training.micro_batch_size",
            saw="auto",
        )
    return chosen


def longest_rows(data: AdapterData, num_rows: int, num_text_tokens: int) -> list[Example]:
    """Return rows that take as much memory as any micro-batch of this size can.

    Before their first collaborative token, from there on, and in their explanation they are as long
    as the longest example. Their prefixes differ, so that each one is computed.
    """
    num_before, rest, num_labels = data.longest()
    after = [num_text_tokens, *[0] * (rest - num_labels - 1)]
    return [
        Example([row % num_text_tokens] * num_before + after, [0] * num_labels)
        for row in range(num_rows)
    ]
