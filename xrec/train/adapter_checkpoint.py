"""The state of an adapter training between two steps: all that a run needs to go on, on any number of workers, at any ZeRO stage.

    progress.json        which run, how far, the present epoch's loss so far, what is best so far, the history
    state.safetensors    parameter/<name>, exp_avg/<name>, exp_avg_sq/<name> of each trained tensor, whole, float32
    adapter.safetensors  the adapter of the best epoch so far (`Adapters.state_dict`); no tensors before the first validation

What is random needs no state: the order follows from seed and epoch, noise from seed, step and micro-batch (`noise_seed`).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import safetensors.torch
from torch import Tensor

from xrec.adapter.artifact import WEIGHTS
from xrec.train.checkpoint import PROGRESS, ReadFile, progress_values

Tensors = dict[str, Tensor]

_STATE = "state.safetensors"


@dataclass(frozen=True)
class Progress:
    """How far a run is; `run` is the fingerprint of its settings and inputs, `step` counts the optimizer steps of all epochs.

    `history` has a row for each epoch that is done, with its `validation_loss`; of the next one `step_in_epoch` steps are, with
    `epoch_nll` nats on `epoch_tokens` tokens in `epoch_seconds`.
    """

    run: str
    step: int = 0
    step_in_epoch: int = 0
    epoch_nll: float = 0.0
    epoch_tokens: float = 0.0
    epoch_seconds: float = 0.0
    history: tuple[Mapping[str, Any], ...] = ()

    @property
    def epoch(self) -> int:
        """The epoch that is being trained, from 1."""
        return len(self.history) + 1

    @property
    def train_loss(self) -> float:
        """Mean NLL of the present epoch so far, nats a token."""
        return self.epoch_nll / self.epoch_tokens

    @property
    def best(self) -> Mapping[str, Any]:
        """The row of the best epoch: the first of the lowest validation loss."""
        return min(self.history, key=lambda row: float(row["validation_loss"]))

    @property
    def evaluations_without_gain(self) -> int:
        """Epochs since the best one."""
        return len(self.history) - 1 - self.history.index(self.best) if self.history else 0

    def after_step(self, nll: float, num_tokens: float, seconds: float) -> "Progress":
        """One optimizer step on: its NLL in nats and its tokens, over the whole global batch, and its time."""
        return replace(
            self,
            step=self.step + 1,
            step_in_epoch=self.step_in_epoch + 1,
            epoch_nll=self.epoch_nll + nll,
            epoch_tokens=self.epoch_tokens + num_tokens,
            epoch_seconds=self.epoch_seconds + seconds,
        )

    def after_epoch(self, row: Mapping[str, Any]) -> "Progress":
        """The present epoch done and validated, `row` its line in the history."""
        return Progress(self.run, step=self.step, history=(*self.history, row))


@dataclass(frozen=True)
class TrainedTensors:
    """Of each trained tensor, by name: its weights and Adam's first and second moment, float32."""

    parameter: Tensors
    exp_avg: Tensors
    exp_avg_sq: Tensors


def checkpoint_files(
    progress: Progress, trained: TrainedTensors, best: Tensors
) -> dict[str, bytes]:
    """Names and contents of a checkpoint's files."""
    state = {
        f"{kind}/{name}": tensor.cpu().contiguous()
        for kind, tensors in vars(trained).items()
        for name, tensor in tensors.items()
    }
    return {
        PROGRESS: json.dumps(asdict(progress)).encode(),
        _STATE: safetensors.torch.save(state),
        WEIGHTS: safetensors.torch.save(best),
    }


def read_progress(read: ReadFile, run: str) -> Progress:
    """How far the checkpoint is; raises ArtifactMismatchError if it is of another run than `run`."""
    values = progress_values(read, run)
    return Progress(**{**values, "history": tuple(values["history"])})


def read_trained(read: ReadFile) -> TrainedTensors:
    """What training goes on with."""
    kinds: dict[str, Tensors] = {"parameter": {}, "exp_avg": {}, "exp_avg_sq": {}}
    for key, tensor in safetensors.torch.load(read(_STATE)).items():
        kind, name = key.split("/")
        kinds[kind][name] = tensor
    return TrainedTensors(**kinds)


def read_best(read: ReadFile) -> Tensors:
    """The best epoch's adapter; empty before the first validation."""
    tensors: Tensors = safetensors.torch.load(read(WEIGHTS))
    return tensors


def noise_seed(seed: int, step: int, micro_batch: int) -> int:
    """Torch's seed for gating noise and dropout of a micro-batch of step `step`, 64 bits.

    `micro_batch` counts within the global batch, not on a worker: the noise is the same for any number of workers.
    """
    return int(np.random.SeedSequence([seed, step, micro_batch]).generate_state(1, np.uint64)[0])
