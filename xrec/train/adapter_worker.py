"""One worker of an adapter's training: its epochs, steps, validation, and checkpoints.

The loss is a mean over the global batch, of its label tokens or of its explanations
(`training.average_over`), for any number of workers. All counts and decisions are global too.
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel

from xrec.adapter.model import Adapters
from xrec.config import TrainAdapterConfig
from xrec.errors import TrainingError
from xrec.train.adapter_model import build_engine, build_model, try_step
from xrec.train.checkpoint import (
    AdapterProgress,
    Tensors,
    WholeState,
    adapter_files,
    progress_file,
    read_best_adapter,
    read_progress,
    read_trained,
)
from xrec.train.data import (
    AdapterData,
    MicroBatch,
    epoch_steps,
    load_adapter_data,
    noise_seed,
    validation_batches,
)
from xrec.train.deepspeed_engine import (
    gathered,
    gathered_state,
    loss_scale,
    restore_states,
    set_loss_scale,
    whole_state,
)
from xrec.train.memory import with_micro_batch_size, with_size, with_zero_stage
from xrec.train.ray_worker import (
    PreemptionWatch,
    checkpoint_folder,
    note,
    note_step,
    rank,
    report,
    world_size,
)


def train_worker(loop_config: dict[str, Any]) -> None:
    """Train in one worker.

    `loop_config` has "config", a TrainAdapterConfig, and "run", the fingerprint of the run.
    """
    config: TrainAdapterConfig = loop_config["config"]
    data = load_adapter_data(config)
    worker = AdapterWorker(with_zero_stage(config, data), data, loop_config["run"])
    while not worker.has_finished:
        worker.run_epoch()


_Checkpoint = tuple[AdapterProgress, dict[str, WholeState], Tensors]
"""How far the run is, the state of each trained parameter, and the best adapter."""


def _last_checkpoint(run: str) -> _Checkpoint | None:
    """Return the last checkpoint, or None; raises ArtifactMismatchError if it is another run's."""
    with checkpoint_folder() as folder:
        if folder is None:
            return None

        def read(name: str) -> bytes:
            return (folder / name).read_bytes()

        progress = read_progress(AdapterProgress, read, run)
        return progress, read_trained(read), read_best_adapter(read)


def _sized_model(
    config: TrainAdapterConfig, data: AdapterData, checkpoint: _Checkpoint | None
) -> tuple[TrainAdapterConfig, PreTrainedModel, Adapters]:
    """Return `config` with a number as its micro-batch size, and its model. Collective.

    The size decides which examples share a step, so a resumed run keeps it on any hardware.
    """
    if checkpoint is not None:
        config = with_size(config, checkpoint[0].micro_batch_size)
    model, adapters = build_model(config, data)
    num_text_tokens = model.get_input_embeddings().vocabulary.num_text_tokens
    step = partial(try_step, config, model)
    return with_micro_batch_size(config, data, num_text_tokens, step), model, adapters


class AdapterWorker:
    """A worker between two steps: its engine, how far the run is, the best adapter so far."""

    def __init__(self, config: TrainAdapterConfig, data: AdapterData, run: str):
        """Build the engine and resume run `run`, a fingerprint, from its last checkpoint.

        Raises ArtifactMismatchError if the checkpoint is another run's.
        """
        checkpoint = _last_checkpoint(run)
        config, model, self._adapters = _sized_model(config, data, checkpoint)
        assert config.training.micro_batch_size != "auto"
        self._training, self._data = config.training, data
        self._micro_batch_size: int = config.training.micro_batch_size
        self._steps_per_epoch = len(data.train) // config.training.global_batch_size
        all_steps = self._steps_per_epoch * config.training.num_epochs
        self._num_steps = min(config.training.max_steps or all_steps, all_steps)
        self._engine = build_engine(model, config, data, num_steps=self._num_steps)
        self.trained = {
            name: parameter
            for name, parameter in self._engine.module.named_parameters()
            if parameter.requires_grad
        }
        self.progress = AdapterProgress(run, micro_batch_size=self._micro_batch_size)
        self._best: Tensors = {}
        self._preemption = PreemptionWatch()
        self._step_ended = time.monotonic()
        if checkpoint is not None:
            self._resume(checkpoint)

    @property
    def has_finished(self) -> bool:
        """Whether all steps are done, or too many validations brought no gain."""
        return (
            self.progress.step >= self._num_steps
            or self.progress.evaluations_without_gain >= self._training.patience
        )

    @property
    def _epoch_has_ended(self) -> bool:
        return (
            self.progress.step >= self._num_steps
            or self.progress.step_in_epoch >= self._steps_per_epoch
        )

    def run_epoch(self) -> None:
        """Train to the end of the current epoch, validate, and report with a checkpoint."""
        self._engine.train()
        steps = epoch_steps(
            self._data.train.lengths(can_split=self._engine.module.prefixes.can_split),
            self._data.train.weights(self._training.average_over),
            epoch=self.progress.epoch,
            seed=self._training.seed,
            global_batch_size=self._training.global_batch_size,
            micro_batch_size=self._micro_batch_size,
            rank=rank(),
            world_size=world_size(),
        )
        for micro_batches in islice(steps, self.progress.step_in_epoch, None):
            if self._epoch_has_ended:
                break
            progress = self.progress
            loss = self._end_step(self.applied_step(micro_batches), micro_batches)
            note_step(progress.epoch, progress.step + 1, self._num_steps, loss)
        self._end_epoch(self.validation_loss())

    # Steps

    def applied_step(self, micro_batches: Sequence[MicroBatch]) -> Tensor:
        """Make an optimizer step; return loss and count of this worker's part, (2,) float64.

        In float16 DeepSpeed skips a step whose gradient is not finite, and lowers the loss scale.
        The step is then repeated with the same examples and random numbers. Raises TrainingError on
        each worker if the loss is not finite, or if a gradient is not and there is no loss scale.
        """
        totals = self._step(micro_batches)
        while not self._engine.was_step_applied():
            self._sums(totals, micro_batches)
            if not self._engine.fp16_enabled():
                raise self._not_finite("gradient", _rows(micro_batches))
            note(f"{self._place}: a gradient overflowed; trying half the loss scale")
            totals = self._step(micro_batches)
        return totals

    def _step(self, micro_batches: Sequence[MicroBatch]) -> Tensor:
        """Try an optimizer step; return the same as `applied_step`.

        Where other workers have one more micro-batch, this one has an empty one: any example goes
        through the model, with a gradient of zero.
        """
        totals = self._zeros()
        for position, micro_batch in enumerate(micro_batches):
            examples = [self._data.train[row] for row in micro_batch.rows]
            number = position * world_size() + rank()
            torch.manual_seed(noise_seed(self._training.seed, self.progress.step, number))
            loss = self._engine(examples or [self._data.train[0]])
            # DeepSpeed averages over workers and accumulation steps, but the loss is a mean over
            # the global batch.
            share = world_size() * len(micro_batches) / micro_batch.global_weight
            self._engine.backward(loss * (share if examples else 0.0))
            self._engine.step()
            totals += _total(loss, micro_batch.weight)
        return totals

    def _end_step(self, totals: Tensor, micro_batches: Sequence[MicroBatch]) -> float:
        """Count a step, and write a checkpoint if one is due; return the global mean loss."""
        now, place = time.monotonic(), self._place
        looking = totals.new_tensor([self._preemption.is_due()])
        loss, weight, num_looking = self._sums(torch.cat([totals, looking]), micro_batches)
        self.progress = self.progress.after_step(loss, weight, now - self._step_ended)
        self._step_ended = now
        if not self._epoch_has_ended:
            every = self._training.steps_per_checkpoint
            is_announced = num_looking > 0 and self._preemption.has_new_notice()
            if is_announced or (every and self.progress.step % every == 0):
                reason = ", because a node will be removed" if is_announced else ""
                report({"note": f"{place}: checkpoint{reason}"}, self._checkpoint())
        return loss / weight

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Return the mean loss of all validation examples; the same on each worker."""
        self._engine.eval()
        totals, data = self._zeros(), self._data.validation
        weights = data.weights(self._training.average_over)
        for rows in validation_batches(
            data.lengths(can_split=self._engine.module.prefixes.can_split),
            batch_size=self._micro_batch_size,
            rank=rank(),
            world_size=world_size(),
        ):
            loss = self._engine([data[row] for row in rows] or [data[0]])
            totals += _total(loss, int(weights[rows].sum()))
        loss, weight = self._sums(totals)
        return loss / weight

    def _zeros(self) -> Tensor:
        return torch.zeros(2, dtype=torch.float64, device=self._engine.device)

    @property
    def _place(self) -> str:
        if self._engine.module.training:
            return f"epoch {self.progress.epoch}, step {self.progress.step + 1}"
        return f"validation after epoch {self.progress.epoch}"

    def _sums(self, totals: Tensor, micro_batches: Sequence[MicroBatch] = ()) -> list[float]:
        """Return the sums over all workers of `totals`: loss, weight, and any others.

        Raises TrainingError on each worker if the loss is not finite.
        """
        own_loss = totals[0].clone()
        if world_size() > 1:
            dist.all_reduce(totals)
        sums: list[float] = totals.tolist()
        if not math.isfinite(sums[0]):
            rows = [] if own_loss.isfinite() else _rows(micro_batches)
            raise self._not_finite("loss", rows)
        return sums

    def _not_finite(self, what: str, rows: list[int]) -> Exception:
        """Return the error for a loss or gradient that is not finite. Collective.

        rows: this worker's training examples that may have caused it.
        """
        self._data.graph.check_finite()
        with gathered(self.trained.values()):
            broken = [name for name, each in self.trained.items() if not each.isfinite().all()]
        of_workers: list[list[int]] = [rows] * world_size()
        if world_size() > 1:
            dist.all_gather_object(of_workers, rows)
        named = ", ".join(str(row) for row in sorted({*chain(*of_workers)})) or "unknown"
        advice = (
            f"{', '.join(broken)} hold NaN or infinity: lower training.learning_rate"
            if broken
            else "the graph's vectors and the adapters' weights are finite. In the first steps, "
            "suspect the language model: try llm.attn_implementation=eager or llm.dtype=float32. "
            "Later, lower training.learning_rate"
        )
        return TrainingError(
            f"{self._place}: the {what} is not finite (training examples: {named}); {advice}",
            code=f"{what}_not_finite",
            key="training.learning_rate",
            saw=broken,
        )

    # Epochs and checkpoints

    def _end_epoch(self, validation_loss: float) -> None:
        """Report the epoch's row, with a checkpoint."""
        progress = self.progress
        row = {
            "epoch": progress.epoch,
            "step": progress.step,
            "train_loss": progress.train_loss,
            "validation_loss": validation_loss,
            "seconds": progress.epoch_seconds + time.monotonic() - self._step_ended,
            "pairs_per_second": progress.step_in_epoch
            * self._training.global_batch_size
            / progress.epoch_seconds,
            "micro_batch_size": self._micro_batch_size,
            "num_train_pairs": len(self._data.train),
            "num_left_out": self._data.left_out,
            "hidden_size": self._engine.module.model.config.hidden_size,
        }
        scale = loss_scale(self._engine)
        if scale is not None:
            row["loss_scale"] = scale[0]
        self.progress = progress.after_epoch(row)
        if self.progress.evaluations_without_gain == 0:
            self._best = gathered_state(self._adapters)
        report(row, self._checkpoint())
        self._step_ended = time.monotonic()

    def _resume(self, checkpoint: _Checkpoint) -> None:
        self.progress, trained, self._best = checkpoint
        restore_states(
            self._engine,
            {self.trained[name]: state for name, state in trained.items()},
            self.progress.step,
            zero_loss=lambda: self._engine([self._data.train[0]]) * 0.0,
        )
        if self.progress.loss_scale is not None:
            set_loss_scale(self._engine, self.progress.loss_scale)
        note(
            f"epoch {self.progress.epoch}, step {self.progress.step}: resuming from the "
            f"checkpoint, on {world_size()} workers"
        )

    def _checkpoint(self) -> dict[str, bytes] | None:
        """Return the checkpoint's files on rank 0, and None on others. Collective."""
        states = {name: whole_state(parameter) for name, parameter in self.trained.items()}
        wrong = [name for name, state in states.items() if not state.weight.isfinite().all()]
        if wrong:
            raise TrainingError(
                f"step {self.progress.step}: {', '.join(wrong)} hold NaN or infinity; "
                "lower training.learning_rate",
                code="weights_not_finite",
                key="training.learning_rate",
                saw=wrong,
            )
        if rank() != 0:
            return None
        progress = replace(self.progress, loss_scale=loss_scale(self._engine))
        return {**progress_file(progress), **adapter_files(states, self._best)}


def _total(loss: Tensor, weight: int) -> Tensor:
    """Return a pass's loss and weight, (2,) float64 on its device; zeros for an empty batch."""
    loss = loss.detach().double() if weight else loss.new_zeros((), dtype=torch.float64)
    return torch.stack([loss, torch.full_like(loss, weight)])


def _rows(micro_batches: Iterable[MicroBatch]) -> list[int]:
    return [int(row) for micro_batch in micro_batches for row in micro_batch.rows]
