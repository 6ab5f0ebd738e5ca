"""One worker of an adapter's training: its epochs, its reports, its checkpoints.

All counts are of the global batch, so all workers take the same decisions.
"""

import time
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from xrec.adapter.model import Adapters
from xrec.config import TrainAdapterConfig
from xrec.errors import TrainingError
from xrec.train.adapter_model import (
    AdapterPasses,
    build_engine,
    build_model,
    sum_over_workers,
    try_step,
)
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
from xrec.train.data import AdapterData, epoch_steps, load_adapter_data
from xrec.train.deepspeed_engine import (
    gathered_state,
    loss_scale,
    restore_states,
    set_loss_scale,
    whole_state,
)
from xrec.train.memory import with_micro_batch_size, with_size, with_zero_stage
from xrec.train.ray_worker import (
    PreemptionWatch,
    last_checkpoint,
    note,
    note_step,
    rank,
    report,
    world_size,
)


def train_worker(loop_config: dict[str, Any]) -> None:
    """Train in one worker, from the argument only.

    `loop_config` has "config", a TrainAdapterConfig with URIs that a worker can open, and "run",
    the fingerprint of the run.
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
    with last_checkpoint() as read:
        if read is None:
            return None
        progress = read_progress(AdapterProgress, read, run)
        return progress, read_trained(read), read_best_adapter(read)


def _sized_model(
    config: TrainAdapterConfig, data: AdapterData, checkpoint: _Checkpoint | None
) -> tuple[TrainAdapterConfig, PreTrainedModel, Adapters]:
    """Return `config` with a number as its micro-batch size, and `build_model` of it. Collective.

    A size decides which examples share a step. So a size that is auto is the checkpoint's, on any
    hardware, and without a checkpoint it is chosen.
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
        """Build the engine for run `run`, a fingerprint, and go on from its last checkpoint.

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
        self._passes = AdapterPasses(self._engine, data, config.training.seed)
        self._trained = {
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
    def epoch_has_ended(self) -> bool:
        """Whether no step of the present epoch is left."""
        return (
            self.progress.step >= self._num_steps
            or self.progress.step_in_epoch >= self._steps_per_epoch
        )

    def run_epoch(self) -> None:
        """Train to the end of the present epoch, validate, and report with a checkpoint."""
        self._engine.train()
        steps = epoch_steps(
            self._data.train.lengths(can_split=self._engine.module.prefixes.can_split),
            self._data.train.num_label_tokens,
            epoch=self.progress.epoch,
            seed=self._training.seed,
            global_batch_size=self._training.global_batch_size,
            micro_batch_size=self._micro_batch_size,
            rank=rank(),
            world_size=world_size(),
        )
        for micro_batches in islice(steps, self.progress.step_in_epoch, None):
            if self.epoch_has_ended:
                break
            progress = self.progress
            place = f"epoch {progress.epoch}, step {progress.step + 1}"
            totals = self._passes.applied_step(micro_batches, step=progress.step, place=place)
            loss = self._end_step(totals, place)
            note_step(progress.epoch, progress.step + 1, self._num_steps, loss)
        place = f"validation after epoch {self.progress.epoch}"
        self._end_epoch(self._passes.validation_loss(self._micro_batch_size, place=place))

    def _end_step(self, totals: Tensor, place: str) -> float:
        """Count a step, write a checkpoint if one is due; return the mean NLL over all workers."""
        now = time.monotonic()
        looking = totals.new_tensor([self._preemption.is_due()])
        nll, count, num_looking = sum_over_workers(torch.cat([totals, looking]), place)
        self.progress = self.progress.after_step(nll, count, now - self._step_ended)
        self._step_ended = now
        if not self.epoch_has_ended:
            every = self._training.steps_per_checkpoint
            is_announced = num_looking > 0 and self._preemption.has_new_notice()
            if is_announced or (every and self.progress.step % every == 0):
                reason = ", because a node is to be taken away" if is_announced else ""
                report({"note": f"{place}: checkpoint{reason}"}, self._checkpoint())
        return nll / count

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

    # Checkpoints

    def _resume(self, checkpoint: _Checkpoint) -> None:
        self.progress, trained, self._best = checkpoint
        restore_states(
            self._engine,
            {self._trained[name]: state for name, state in trained.items()},
            self.progress.step,
            zero_loss=lambda: self._engine([self._data.train[0]]) * 0.0,
        )
        if self.progress.loss_scale is not None:
            set_loss_scale(self._engine, self.progress.loss_scale)
        note(
            f"epoch {self.progress.epoch}, step {self.progress.step}: going on from the "
            f"checkpoint, on {world_size()} workers"
        )

    def _checkpoint(self) -> dict[str, bytes] | None:
        """Return the checkpoint's files on rank 0, and None on others. Collective."""
        states = {name: whole_state(parameter) for name, parameter in self._trained.items()}
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
