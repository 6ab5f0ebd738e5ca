"""Which examples each worker sees at each step: the same global batches for any number of workers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xrec.llm.examples import Example


@dataclass(frozen=True)
class MicroBatch:
    """The examples of one forward pass of one worker; `num_global_tokens` counts the labels of the whole global batch."""

    examples: list[Example]
    num_global_tokens: int


def epoch_steps(
    examples: Sequence[Example], *, epoch: int, seed: int, global_batch_size: int, micro_batch_size: int, rank: int, world_size: int
) -> Iterator[list[MicroBatch]]:
    """Yield the micro-batches of this worker, a list a step; a last, incomplete global batch is left out.

    The order depends on `seed` and `epoch` only. A global batch is sorted by length before it is dealt out, so that rows of
    a micro-batch are of similar length; the loss is a mean over the global batch's tokens, so who gets which row does not matter.
    Where the micro-batches do not divide among the workers, the last ones' are empty: ZeRO-3 gathers weights in step.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(examples))
    for start in range(0, len(order) - global_batch_size + 1, global_batch_size):
        rows = sorted((examples[index] for index in order[start : start + global_batch_size]), key=len)
        num_tokens = sum(len(row.label_ids) for row in rows)
        micro_batches = [rows[first : first + micro_batch_size] for first in range(0, len(rows), micro_batch_size)]
        micro_batches += [[] for _ in range(-len(micro_batches) % world_size)]
        yield [MicroBatch(micro_batch, num_tokens) for micro_batch in micro_batches[rank::world_size]]


def validation_batches(examples: Sequence[Example], *, batch_size: int, rank: int, world_size: int) -> list[list[Example]]:
    """This worker's share of the validation examples, in batches of similar length; the same number for every worker.

    ZeRO-3 gathers weights in step: where the batches do not divide among the workers, the share ends with an empty batch.
    """
    ordered = sorted(examples, key=len)
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    batches += [[] for _ in range(-len(batches) % world_size)]
    return batches[rank::world_size]
