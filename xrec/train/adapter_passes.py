"""Optimizer steps and validation passes of one worker, and their sums over all workers.

The loss is the mean NLL of the explanations' tokens and end tokens over the global batch, the same
for any number of workers.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from xrec.errors import TrainingError
from xrec.llm.examples import Example
from xrec.train.data import AdapterData, MicroBatch, noise_seed, validation_batches
from xrec.train.ray_worker import note, rank, world_size

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


class AdapterPasses:
    """Passes of a DeepSpeed engine over an `ExplanationLoss`; `seed` is that of the training."""

    def __init__(self, engine: "DeepSpeedEngine", data: AdapterData, seed: int):
        self._engine, self._data, self._seed = engine, data, seed

    def applied_step(self, micro_batches: Sequence[MicroBatch], *, step: int, place: str) -> Tensor:
        """Make an optimizer step; return NLL (nats) and tokens of this worker's part, (2,) float64.

        step: the steps before this one, of which its random numbers follow. place: for messages.

        In float16 DeepSpeed skips a step whose gradient is not finite, and lowers the loss scale.
        The step is then made again, with the same examples and random numbers. So a skipped step
        changes nothing but the scale. Raises TrainingError on each worker if the NLL is not finite,
        or if a gradient is not in a number format without a scale.
        """
        totals = self._step(micro_batches, step)
        while not self._engine.was_step_applied():
            sum_over_workers(totals, place)
            if not self._engine.fp16_enabled():
                raise TrainingError(
                    f"{place}: a gradient is not finite; lower training.learning_rate.peak, or "
                    "check the graph's vectors"
                )
            note(f"{place}: a gradient overflowed; trying half the loss scale")
            totals = self._step(micro_batches, step)
        return totals

    def _step(self, micro_batches: Sequence[MicroBatch], step: int) -> Tensor:
        """Try an optimizer step; return the same as `applied_step`.

        An empty micro-batch stands in where the others have one more: some example goes through
        the model, with a gradient of zero.
        """
        totals = self._zeros()
        for position, micro_batch in enumerate(micro_batches):
            examples = micro_batch.examples
            number = position * world_size() + rank()
            torch.manual_seed(noise_seed(self._seed, step, number))
            nll = self._engine(examples or self._data.train[:1])
            # DeepSpeed averages over workers and accumulation steps, while the loss is a mean over
            # the global batch's tokens.
            share = world_size() * len(micro_batches) / micro_batch.num_global_tokens
            self._engine.backward(nll * (share if examples else 0.0))
            self._engine.step()
            totals += _nll_and_tokens(nll, examples)
        return totals

    @torch.no_grad()
    def validation_loss(self, batch_size: int, *, place: str) -> float:
        """Return the mean NLL of all validation examples, nats a token; the same on each worker."""
        self._engine.eval()
        totals = self._zeros()
        for examples in validation_batches(
            self._data.validation,
            batch_size=batch_size,
            rank=rank(),
            world_size=world_size(),
            length=self._engine.module.prefixes.num_rest_tokens,
        ):
            nll = self._engine(examples or self._data.validation[:1])
            totals += _nll_and_tokens(nll, examples)
        nll, num_tokens = sum_over_workers(totals, place)
        return nll / num_tokens

    def _zeros(self) -> Tensor:
        return torch.zeros(2, dtype=torch.float64, device=self._engine.device)


def _nll_and_tokens(nll: Tensor, examples: Sequence[Example]) -> Tensor:
    """Return a batch's NLL and number of labels, (2,) float64 on its device; zeros without rows."""
    num_tokens = sum(len(example.label_ids) for example in examples)
    nll = nll.detach().double() if examples else nll.new_zeros((), dtype=torch.float64)
    return torch.stack([nll, nll.new_tensor(num_tokens)])


def sum_over_workers(totals: Tensor, place: str) -> list[float]:
    """Return the sums over all workers of `totals`: NLL, tokens and any others, float64.

    Raises TrainingError on each worker if the NLL is not finite; `place` says where in the run.
    """
    if world_size() > 1:
        dist.all_reduce(totals)
    nll, num_tokens, *others = totals.tolist()
    if not math.isfinite(nll):
        raise TrainingError(
            f"{place}: the loss is {nll / num_tokens}; lower training.learning_rate.peak, or check "
            "the graph's vectors"
        )
    return [nll, num_tokens, *others]
