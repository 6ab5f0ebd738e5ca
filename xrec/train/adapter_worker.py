"""One worker of an adapter's training: its epochs, its reports, its checkpoints.

All counts are of the global batch, so all workers take the same decisions.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel

from xrec.adapter.model import Adapters
from xrec.config.adapter import TrainAdapterConfig
from xrec.errors import TrainingError
from xrec.storage import location_of
from xrec.train.adapter_model import build_model, engine_over, try_step
from xrec.train.adapter_passes import AdapterPasses, sum_over_workers
from xrec.train.checkpoint import (
    AdapterProgress,
    Tensors,
    TrainedTensors,
    adapter_files,
    progress_file,
    read_best_adapter,
    read_progress,
    read_trained,
)
from xrec.train.data import (
    AdapterData,
    epoch_steps,
    load_adapter_data,
)
from xrec.train.deepspeed_engine import (
    WholeState,
    gathered_state,
    restore_states,
    training_dtype,
    whole_state,
)
from xrec.train.loss_scale import (
    LossScale,
    check_dtype,
    loss_scale,
    set_loss_scale,
)
from xrec.train.micro_batch import (
    chosen_size,
    with_estimated_size,
    with_size,
    with_tried_size,
)
from xrec.train.prefix_cache import PrefixCache, WorkCounts
from xrec.train.profiler import profiled_steps
from xrec.train.ray_worker import (
    PreemptionWatch,
    last_checkpoint,
    note,
    note_step,
    rank,
    report,
    worker_device,
    world_size,
)
from xrec.train.sharding import with_sharding
from xrec.train.work import Speed, WorkMeter, peak_tflops


def train_worker(loop_config: dict[str, Any]) -> None:
    """Train in one worker, from the argument only.

    `loop_config` has "config", a TrainAdapterConfig with URIs that a worker can open, and "run",
    the fingerprint of the run.
    """
    config: TrainAdapterConfig = loop_config["config"]
    check_dtype(training_dtype(config))
    data = load_adapter_data(config)
    num_profiled = config.training.profile_steps if rank() == 0 else 0
    adapter = location_of(config, "adapter")
    worker = AdapterWorker(with_sharding(config, data), data, loop_config["run"])
    with profiled_steps(num_profiled, adapter) as worker.after_step:
        while not worker.has_finished:
            worker.run_epoch()


@dataclass(frozen=True)
class _Checkpoint:
    """What a worker reads of the last checkpoint."""

    progress: AdapterProgress
    trained: TrainedTensors
    best: Tensors


def _last_checkpoint(run: str) -> _Checkpoint | None:
    """Return the last checkpoint, or None; raises ArtifactMismatchError if it is another run's."""
    with last_checkpoint() as read:
        if read is None:
            return None
        progress = read_progress(AdapterProgress, read, run)
        return _Checkpoint(progress, read_trained(read), read_best_adapter(read))


def _sized_model(
    config: TrainAdapterConfig, data: AdapterData, checkpoint: _Checkpoint | None
) -> tuple[TrainAdapterConfig, PreTrainedModel, Adapters]:
    """Return `config` with a number as its micro-batch size, and `build_model` of it. Collective.

    A size that is auto is the checkpoint's, and without a checkpoint it is chosen.
    """
    is_auto = config.training.micro_batch_size == "auto"
    if is_auto and checkpoint is not None and checkpoint.progress.micro_batch_size is not None:
        config = with_size(config, checkpoint.progress.micro_batch_size)
    config = with_estimated_size(config, data)
    model, adapters = build_model(config, data)
    num_text_tokens = model.get_input_embeddings().vocabulary.num_text_tokens
    return (
        with_tried_size(config, data, num_text_tokens, partial(try_step, config, model)),
        model,
        adapters,
    )


class AdapterWorker:
    """A worker between two steps: its engine, how far the run is, the best adapter so far."""

    def __init__(self, config: TrainAdapterConfig, data: AdapterData, run: str):
        """Build the engine for run `run`, a fingerprint, and go on from its last checkpoint.

        Raises ArtifactMismatchError if the checkpoint is another run's.
        """
        checkpoint = _last_checkpoint(run)
        config, model, self._adapters = _sized_model(config, data, checkpoint)
        self._training, self._data = config.training, data
        self._micro_batch_size = chosen_size(config)
        self._steps_per_epoch = len(data.train) // config.training.global_batch_size
        all_steps = self._steps_per_epoch * config.training.num_epochs
        self._num_steps = min(config.training.max_steps or all_steps, all_steps)
        self._engine = engine_over(model, config, data, num_steps=self._num_steps)
        self._prefixes: PrefixCache = self._engine.module.prefixes
        self._passes = AdapterPasses(self._engine, data, config.training.seed)
        self._meter = WorkMeter(self._engine.module.model)
        self._speed: dict[str, float] = {}
        self.after_step: Callable[[], None] = lambda: None
        """Called after each step."""
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
        self._prefixes.counts = WorkCounts()
        self._meter.flop, start = 0, time.monotonic()
        self._train_epoch()
        self._speed = self._speed_of(time.monotonic() - start)
        validation_loss = self._passes.validation_loss(
            self._micro_batch_size, place=f"validation after epoch {self.progress.epoch}"
        )
        self._end_epoch(validation_loss)

    @property
    def _place(self) -> str:
        return f"epoch {self.progress.epoch}, step {self.progress.step + 1}"

    def _train_epoch(self) -> None:
        """Make the steps that are left of the present epoch."""
        self._engine.train()
        steps = epoch_steps(
            self._data.train,
            epoch=self.progress.epoch,
            seed=self._training.seed,
            global_batch_size=self._training.global_batch_size,
            micro_batch_size=self._micro_batch_size,
            rank=rank(),
            world_size=world_size(),
            length=self._prefixes.num_rest_tokens,
        )
        for micro_batches in islice(steps, self.progress.step_in_epoch, None):
            if self.epoch_has_ended:
                break
            totals = self._passes.applied_step(
                micro_batches, step=self.progress.step, place=self._place
            )
            loss = self._end_step(totals)
            progress = self.progress
            note_step(progress.epoch, progress.step_in_epoch, self._steps_per_epoch, loss)
            self.after_step()

    def _end_step(self, totals: Tensor) -> float:
        """Count a step and write a checkpoint if one is due; return the step's mean NLL.

        `totals` is what `AdapterPasses.applied_step` returns, and the mean is over all workers.
        Raises TrainingError on each worker if the NLL is not finite.
        """
        now = time.monotonic()
        is_time_to_look = totals.new_tensor([self._preemption.is_due()])
        nll, num_tokens, num_looking = sum_over_workers(
            torch.cat([totals, is_time_to_look]), self._place
        )
        self.progress = self.progress.after_step(nll, num_tokens, now - self._step_ended)
        self._step_ended = now
        if not self.epoch_has_ended:
            self._checkpoint_if_due(look_for_notice=num_looking > 0)
        return nll / num_tokens

    def _end_epoch(self, validation_loss: float) -> None:
        """Report the epoch's row, with a checkpoint."""
        row = {
            "epoch": self.progress.epoch,
            "step": self.progress.step,
            "train_loss": self.progress.train_loss,
            "validation_loss": validation_loss,
            "seconds": self.progress.epoch_seconds + time.monotonic() - self._step_ended,
            **self._work(),
            **self._speed,
            "micro_batch_size": self._micro_batch_size,
            "num_train_pairs": len(self._data.train),
            "num_left_out": dict(self._data.left_out),
            "hidden_size": self._engine.module.model.config.hidden_size,
        }
        scale = loss_scale(self._engine)
        if scale is not None:
            row["loss_scale"] = scale.scale
        self.progress = self.progress.after_epoch(row)
        if self.progress.evaluations_without_gain == 0:
            self._best = gathered_state(self._adapters)
        report(row, self._checkpoint())
        self._step_ended = time.monotonic()

    def _speed_of(self, seconds: float) -> dict[str, float]:
        """Return the speed of the steps since the epoch, or this process, began. Collective."""
        counts, device = self._prefixes.counts, worker_device()
        numbers = torch.tensor(
            [counts.positions - counts.padding, self._meter.flop],
            dtype=torch.float64,
            device=self._engine.device,
        )
        if world_size() > 1:
            dist.all_reduce(numbers)
        num_tokens, flop = numbers.tolist()
        if num_tokens == 0:  # a run that goes on at the end of an epoch
            return {}
        peak = self._training.peak_tflops
        if peak is None and device.type == "cuda":
            peak = peak_tflops(torch.cuda.get_device_name(device), self._engine.module.model.dtype)
        return Speed(num_tokens, flop, seconds, world_size()).row(peak)

    def _work(self) -> dict[str, float]:
        """Return what the epoch's passes consisted of, for all workers together. Collective."""
        counts, num_bytes = self._prefixes.counts, self._prefixes.num_bytes
        numbers = torch.tensor(
            [counts.padding, counts.positions, counts.kept_rows, counts.rows, num_bytes],
            dtype=torch.float64,
            device=self._engine.device,
        )
        if world_size() > 1:
            dist.all_reduce(numbers)
        padding, positions, kept_rows, rows, num_bytes = numbers.tolist()
        return {
            "padding_share": padding / positions,
            "prefix_hit_share": kept_rows / rows,
            "prefix_cache_gib": num_bytes / 2**30,
        }

    # Checkpoints

    def _resume(self, checkpoint: "_Checkpoint") -> None:
        """Go on from the checkpoint."""
        self.progress = replace(checkpoint.progress, micro_batch_size=self._micro_batch_size)
        trained, self._best = checkpoint.trained, checkpoint.best
        # Adam has no state before its first step, so a step is made, with gradients of zero.
        for _ in range(self._engine.gradient_accumulation_steps()):
            self._passes.backward(self._engine(self._data.train[:1]) * 0.0)
            self._engine.step()
        states = {
            parameter: WholeState(
                trained.parameter[name], trained.exp_avg[name], trained.exp_avg_sq[name]
            )
            for name, parameter in self._trained.items()
        }
        restore_states(self._engine, states, self.progress.step)
        if self.progress.loss_scale is not None:
            assert self.progress.steps_since_overflow is not None
            scale = LossScale(self.progress.loss_scale, self.progress.steps_since_overflow)
            set_loss_scale(self._engine, scale)
        note(
            f"epoch {self.progress.epoch}, step {self.progress.step}: going on from the "
            f"checkpoint, on {world_size()} workers"
        )

    def _checkpoint_if_due(self, *, look_for_notice: bool) -> None:
        every = self._training.steps_per_checkpoint
        if look_for_notice and self._preemption.has_new_notice():
            self._report_checkpoint(", because a node is to be taken away")
        elif every and self.progress.step % every == 0:
            self._report_checkpoint("")

    def _report_checkpoint(self, reason: str) -> None:
        place = f"epoch {self.progress.epoch}, step {self.progress.step}"
        report({"note": f"{place}: checkpoint{reason}"}, self._checkpoint())

    def _checkpoint(self) -> dict[str, bytes] | None:
        """Return the checkpoint's files on rank 0, and None on others. Collective.

        Raises TrainingError on each worker if a weight is not finite.
        """
        states = {
            name: whole_state(self._engine, parameter) for name, parameter in self._trained.items()
        }
        wrong = [name for name, state in states.items() if not state.weight.isfinite().all()]
        if wrong:
            raise TrainingError(
                f"step {self.progress.step}: {', '.join(wrong)} hold NaN or infinity; "
                "lower training.learning_rate.peak"
            )
        if rank() != 0:
            return None
        trained = TrainedTensors(
            parameter={name: state.weight for name, state in states.items()},
            exp_avg={name: state.exp_avg for name, state in states.items()},
            exp_avg_sq={name: state.exp_avg_sq for name, state in states.items()},
        )
        return {**progress_file(self._whole_progress()), **adapter_files(trained, self._best)}

    def _whole_progress(self) -> AdapterProgress:
        """Return the progress with the loss scale."""
        scale = loss_scale(self._engine)
        if scale is None:
            return self.progress
        return replace(
            self.progress,
            loss_scale=scale.scale,
            steps_since_overflow=scale.steps_since_overflow,
        )
