"""A worker's choice of the micro-batch size where `training.micro_batch_size` is auto.

The sizes are 1, 2, 4 and so on that divide a worker's part of the global batch. There are two ways:

    with_estimated_size    before the model is loaded, on a CPU and at ZeRO stage 3: the largest
                           size whose memory fits by estimate (xrec.train.memory)
    with_tried_size        at the other stages on a GPU, before DeepSpeed gets the model: the
                           largest size with which a step over the longest rows fits the memory

No size is tried at stage 3: a worker that ran out of memory would leave the others waiting for it
in the middle of a pass. A size decides which examples share a step, so a run that goes on takes the
size that its checkpoint names, on any hardware.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING

import torch

from xrec.config.adapter import TrainAdapterConfig
from xrec.errors import ModelError
from xrec.llm.examples import Example
from xrec.train.memory import device_memory, worker_memory
from xrec.train.prefix_cache import PartLengths
from xrec.train.ray_worker import (
    least_of_workers,
    local_world_size,
    note,
    worker_device,
    world_size,
)
from xrec.train.sharding import estimate_inputs

if TYPE_CHECKING:
    from xrec.train.data import AdapterData

MOST_ON_CPU = 8
"""The largest size that is chosen on a CPU, whose matrix products gain nothing from more rows."""

SHARE_OF_FREE_MEMORY = 0.9
"""Share of a GPU's free memory that a step may fill. The rest is lost between blocks of memory."""

Step = Callable[[Sequence[Example]], None]
"""Goes forward and backward with the rows, and leaves nothing behind."""


def sizes_to_try(config: TrainAdapterConfig) -> list[int]:
    """Return the powers of two that divide a worker's part of the global batch, ascending.

    They are the same if fewer workers than `scaling.num_workers` are at work.
    """
    part = config.training.global_batch_size // config.scaling.num_workers
    powers = (2**exponent for exponent in range(part.bit_length()))
    return list(takewhile(lambda size: part % size == 0, powers))


def with_size(config: TrainAdapterConfig, size: int) -> TrainAdapterConfig:
    """Return `config` with a number as its micro-batch size; it must be auto."""
    assert config.training.micro_batch_size == "auto"
    training = config.training.model_copy(update={"micro_batch_size": size})
    return config.model_copy(update={"training": training})


def chosen_size(config: TrainAdapterConfig) -> int:
    """Return the micro-batch size, which must be a number by now."""
    size = config.training.micro_batch_size
    assert size != "auto"
    return size


def with_estimated_size(config: TrainAdapterConfig, data: "AdapterData") -> TrainAdapterConfig:
    """Return `config` with a number as its micro-batch size, and log the choice. Collective.

    The config is returned as it is if it has a number, or if a step can be tried. If no size fits
    by estimate, the number is 1.
    """
    on_cpu, stage = worker_device().type == "cpu", config.deepspeed.zero_stage
    if config.training.micro_batch_size != "auto" or not (on_cpu or stage == 3):
        return config
    assert stage != "auto"
    shape, load = estimate_inputs(config, data)
    available = least_of_workers(device_memory(worker_device(), local_world_size()))
    sizes = [size for size in sizes_to_try(config) if size <= MOST_ON_CPU or not on_cpu]
    sums = {
        size: worker_memory(
            shape, replace(load, micro_batch_size=size), stage=stage, num_workers=world_size()
        ).total
        for size in sizes
    }
    chosen = max((size for size, total in sums.items() if total <= available), default=1)
    note(
        f"training.micro_batch_size = {chosen}: auto, the largest of {_listed(sizes)} that fits by "
        f"estimate, with {sums[chosen] / 1e9:.2f} GB of {available / 1e9:.2f}"
    )
    return with_size(config, chosen)


def with_tried_size(
    config: TrainAdapterConfig, data: "AdapterData", num_text_tokens: int, step: Step
) -> TrainAdapterConfig:
    """Return `config` with a number as its micro-batch size, and log all trials. Collective.

    The config is returned as it is if it has a number. Each size is tried by `step` over as many
    rows, each of them as long as the longest one, until one does not fit this worker's GPU. The
    least of all workers' sizes is taken. Raises ModelError on each worker if not even one row fits.
    """
    if config.training.micro_batch_size != "auto":
        return config
    room, examples = _room(config, data), [*data.train, *data.validation]
    largest, trials = 0, [f"trial steps over the longest rows, with {room / 1e9:.2f} GB for them:"]
    for size in sizes_to_try(config):
        peak = _peak_of(step, longest_rows(examples, size, num_text_tokens))
        seen = "out of memory" if peak is None else f"{peak / 1e9:.2f} GB"
        trials.append(f"  {size:4} row(s): {seen}")
        if peak is None or peak > room:
            break
        largest = size
    torch.cuda.empty_cache()
    chosen = int(least_of_workers(largest))
    table = "\n".join(trials)
    if chosen == 0:
        raise ModelError(
            f"training.micro_batch_size = auto: a step over one row does not fit a worker's GPU.\n"
            f"{table}\n  lower prompt.max_prompt_tokens or training.prefix_cache_gib, set "
            "training.gradient_checkpointing=true or deepspeed.zero_stage=3, or take a smaller "
            "model"
        )
    note(f"{table}\n  auto: training.micro_batch_size = {chosen}")
    return with_size(config, chosen)


def longest_rows(examples: Sequence[Example], num_rows: int, num_text_tokens: int) -> list[Example]:
    """Return rows of which a micro-batch takes as much memory as any one of the examples can.

    Each has the longest beginning, the longest rest and the longest explanation of all. The
    beginnings differ, so that each of them is computed.
    """
    lengths = PartLengths.of(examples, num_text_tokens)
    num_labels = max(len(row.label_ids) for row in examples)
    of_beginning = lengths.beginnings.index(max(lengths.beginnings))
    of_rest = lengths.rests.index(max(lengths.rests))
    beginning = examples[of_beginning].prompt_ids[: lengths.beginnings[of_beginning]]
    whole = [*examples[of_rest].prompt_ids, *examples[of_rest].label_ids]
    rest = whole[lengths.beginnings[of_rest] :][: lengths.rests[of_rest] - num_labels]
    return [
        Example(
            [*([row % num_text_tokens] if beginning else []), *beginning[1:], *rest],
            [0] * num_labels,
        )
        for row in range(num_rows)
    ]


def _room(config: TrainAdapterConfig, data: "AdapterData") -> int:
    """Return the bytes of this worker's GPU that a step may take.

    What comes later is left out: the optimizer's state and the kept beginnings.
    """
    shape, load = estimate_inputs(config, data)
    memory = worker_memory(shape, load, stage=0, num_workers=1)
    later = memory.adapters_and_optimizer + memory.gradient_buffer + load.prefix_cache_bytes
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(worker_device())
    return int(SHARE_OF_FREE_MEMORY * free) - later


def _peak_of(step: Step, rows: Sequence[Example]) -> int | None:
    """Return the bytes that the step took at its peak, or None if there were too few."""
    device = worker_device()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        step(rows)
    except torch.OutOfMemoryError:
        return None
    return torch.cuda.max_memory_allocated(device) - before


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes))
