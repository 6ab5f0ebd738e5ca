"""Adapter training, one worker: how far the run is, and its checkpoints. It takes up the last one, if there is one.

Counts are those of the whole global batch, so every worker reaches the same decisions.
"""

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from xrec.adapter.model import Adapters
from xrec.config.adapter import AdapterTrainingConfig
from xrec.errors import TrainingError
from xrec.llm.examples import Example
from xrec.train.adapter_checkpoint import (
    Progress,
    Tensors,
    TrainedTensors,
    checkpoint_files,
    noise_seed,
    read_best,
    read_progress,
    read_trained,
)
from xrec.train.adapter_module import gathered_state
from xrec.train.optimizer_loop import WholeState, restore_states, whole_state
from xrec.train.worker_loop import last_checkpoint, note, preempted_nodes, rank, report, world_size

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


# Ray looks itself every 5 s. To ask it takes 2 to 3 ms a worker, so not at each step.
_SECONDS_BETWEEN_LOOKS = 5.0


class AdapterRun:
    """A worker between two steps: its engine, how far the run is, the best adapter so far."""

    def __init__(
        self,
        engine: "DeepSpeedEngine",
        adapters: Adapters,
        training: AdapterTrainingConfig,
        run: str,
        *,
        num_steps: int,
        steps_per_epoch: int,
    ):
        """At the start of run `run`, a fingerprint, which has at most `num_steps` optimizer steps."""
        self.progress = Progress(run)
        self._engine, self._adapters, self._training = engine, adapters, training
        self._num_steps, self._steps_per_epoch = num_steps, steps_per_epoch
        self._trained = {
            name: parameter
            for name, parameter in engine.module.named_parameters()
            if parameter.requires_grad
        }
        self._best: Tensors = {}
        self._preempted: frozenset[str] = frozenset()
        self._looked_for_notice = self._step_ended = time.monotonic()

    @property
    def has_finished(self) -> bool:
        """All steps are done, or too many validations brought no gain."""
        return (
            self.progress.step >= self._num_steps
            or self.progress.evaluations_without_gain >= self._training.patience
        )

    @property
    def epoch_has_ended(self) -> bool:
        """No step of the present epoch is left."""
        return (
            self.progress.step >= self._num_steps
            or self.progress.step_in_epoch >= self._steps_per_epoch
        )

    def take_up_checkpoint(self, examples: Sequence[Example]) -> None:
        """Go on from the last checkpoint, if there is one; raises ArtifactMismatchError if it is another run's.

        `examples` are any: Adam has no state before its first step, so one is made, with gradients of zero.
        """
        with last_checkpoint() as read:
            if read is None:
                return
            self.progress, trained, self._best = (
                read_progress(read, self.progress.run),
                read_trained(read),
                read_best(read),
            )
        for _ in range(self._engine.gradient_accumulation_steps()):
            self._engine.backward(self._engine(examples) * 0.0)
            self._engine.step()
        tensors = (trained.parameter, trained.exp_avg, trained.exp_avg_sq)
        states = {
            parameter: WholeState(*(tensor[name] for tensor in tensors))
            for name, parameter in self._trained.items()
        }
        restore_states(self._engine, states, self.progress.step)
        note(
            f"epoch {self.progress.epoch}, step {self.progress.step}: going on from the checkpoint, on {world_size()} workers"
        )

    def seed_noise(self, position: int) -> None:
        """Before this worker's micro-batch number `position` of a step, so that noise depends on neither workers nor restarts."""
        torch.manual_seed(
            noise_seed(self._training.seed, self.progress.step, position * world_size() + rank())
        )

    def end_step(self, totals: Tensor) -> float:
        """Count a step, and checkpoint if one is due; `totals` (2,) float64: NLL in nats and tokens of this worker's micro-batches.

        Returns the step's mean NLL over all workers; raises TrainingError, on each of them, if it is no number.
        """
        now = time.monotonic()
        is_time_to_look = totals.new_tensor(
            [now - self._looked_for_notice > _SECONDS_BETWEEN_LOOKS]
        )
        place = f"epoch {self.progress.epoch}, step {self.progress.step + 1}"
        nll, num_tokens, num_looking = sum_over_workers(torch.cat([totals, is_time_to_look]), place)
        self.progress = self.progress.after_step(nll, num_tokens, now - self._step_ended)
        self._step_ended = now
        if not self.epoch_has_ended:
            self._checkpoint_if_due(look_for_notice=num_looking > 0)
        return nll / num_tokens

    def end_epoch(self, validation_loss: float, facts: dict[str, Any]) -> None:
        """Report the epoch, with a checkpoint; `facts` go into its row."""
        progress, seconds = self.progress, time.monotonic() - self._step_ended
        row = {
            "epoch": progress.epoch,
            "step": progress.step,
            "train_loss": progress.train_loss,
            "validation_loss": validation_loss,
            "seconds": progress.epoch_seconds + seconds,
            **facts,
        }
        self.progress = progress.after_epoch(row)
        if self.progress.evaluations_without_gain == 0:
            self._best = gathered_state(self._adapters)
        report(row, self._checkpoint())
        self._step_ended = time.monotonic()

    def _checkpoint_if_due(self, *, look_for_notice: bool) -> None:
        every = self._training.steps_per_checkpoint
        if look_for_notice and self._has_new_notice():
            self._report_checkpoint(", because a node is to be taken away")
        elif every and self.progress.step % every == 0:
            self._report_checkpoint("")

    def _has_new_notice(self) -> bool:
        before, self._preempted = self._preempted, preempted_nodes()
        self._looked_for_notice = time.monotonic()
        return bool(self._preempted - before)

    def _report_checkpoint(self, reason: str) -> None:
        report(
            {"note": f"epoch {self.progress.epoch}, step {self.progress.step}: checkpoint{reason}"},
            self._checkpoint(),
        )

    def _checkpoint(self) -> dict[str, bytes] | None:
        """The files, on rank 0; collective. Raises TrainingError, on each worker, for a weight that is no number."""
        states = {
            name: whole_state(self._engine, parameter) for name, parameter in self._trained.items()
        }
        wrong = [name for name, state in states.items() if not state.weight.isfinite().all()]
        if wrong:
            raise TrainingError(
                f"step {self.progress.step}: {', '.join(wrong)} hold NaN or infinity; lower training.learning_rate.peak"
            )
        if rank() != 0:
            return None
        kinds = ("weight", "exp_avg", "exp_avg_sq")
        trained = TrainedTensors(
            *({name: getattr(state, kind) for name, state in states.items()} for kind in kinds)
        )
        return checkpoint_files(self.progress, trained, self._best)


def sum_over_workers(totals: Tensor, place: str) -> list[float]:
    """[NLL, tokens, ...] float64 of this worker to those of all; raises TrainingError, on each worker, if the NLL is no number."""
    if world_size() > 1:
        dist.all_reduce(totals)
    nll, num_tokens, *others = totals.tolist()
    if not math.isfinite(nll):
        raise TrainingError(
            f"{place}: the loss is {nll / num_tokens}; lower training.learning_rate.peak, or check the graph's vectors"
        )
    return [nll, num_tokens, *others]
