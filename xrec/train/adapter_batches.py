"""Which examples each worker sees at each step: the same global batches for any number of workers.

A global batch has M micro-batches. The examples are dealt into M lanes for good, and micro-batch m of every step comes from
lane m. Worker r has lanes r, r + W, ...: an example stays with one worker in all epochs, and so do the keys and values that
the worker keeps of it (xrec.train.prefix_cache).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xrec.llm.examples import Example

_SORTED_STEPS = 16
"""Steps whose examples are sorted together by length: more leave less padding, and less chance in what is beside what."""


@dataclass(frozen=True)
class MicroBatch:
    """The examples of one forward pass of one worker; `num_global_tokens` counts the labels of the whole global batch."""

    examples: list[Example]
    num_global_tokens: int


def epoch_steps(
    examples: Sequence[Example],
    *,
    epoch: int,
    seed: int,
    global_batch_size: int,
    micro_batch_size: int,
    rank: int,
    world_size: int,
    length: Callable[[Example], int] = len,
) -> Iterator[list[MicroBatch]]:
    """Yield the micro-batches of this worker, a list a step; less than a global batch is left out, other examples in each epoch.

    The order depends on `seed`, `epoch` and the lengths only. All rows of a step are of similar `length`, so that little is padding
    and no worker waits for another; the loss is a mean over the global batch's tokens, so who gets which row does not matter.
    Where the micro-batches do not divide among the workers, the last ones' are empty: ZeRO-3 gathers weights in step.
    """
    lanes = _lanes(examples, global_batch_size // micro_batch_size, length)
    rng = np.random.default_rng([seed, epoch])
    orders = [rng.permutation(lane) for lane in lanes]
    num_steps = len(examples) // global_batch_size
    for first in range(0, num_steps, _SORTED_STEPS):
        count = min(_SORTED_STEPS, num_steps - first)
        blocks = [
            _sorted(
                order[first * micro_batch_size : (first + count) * micro_batch_size],
                examples,
                length,
            )
            for order in orders
        ]
        for step in rng.permutation(count) * micro_batch_size:
            micro_batches = [
                [examples[index] for index in block[step : step + micro_batch_size]]
                for block in blocks
            ]
            micro_batches += [[] for _ in range(-len(micro_batches) % world_size)]
            num_tokens = sum(len(row.label_ids) for rows in micro_batches for row in rows)
            yield [MicroBatch(rows, num_tokens) for rows in micro_batches[rank::world_size]]


def _lanes(
    examples: Sequence[Example], num_lanes: int, length: Callable[[Example], int]
) -> list[list[int]]:
    """Indices dealt out in order of length: each lane has short and long examples alike."""
    ordered = _sorted(range(len(examples)), examples, length)
    return [ordered[lane::num_lanes] for lane in range(num_lanes)]


def _sorted(
    indices: Sequence[int] | np.ndarray,
    examples: Sequence[Example],
    length: Callable[[Example], int],
) -> list[int]:
    return sorted(map(int, indices), key=lambda index: length(examples[index]))


def validation_batches(
    examples: Sequence[Example],
    *,
    batch_size: int,
    rank: int,
    world_size: int,
    length: Callable[[Example], int] = len,
) -> list[list[Example]]:
    """This worker's share of the validation examples, in batches of similar `length`; the same number for every worker.

    ZeRO-3 gathers weights in step: where the batches do not divide among the workers, the share ends with an empty batch.
    """
    ordered = sorted(examples, key=length)
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    batches += [[] for _ in range(-len(batches) % world_size)]
    return batches[rank::world_size]
