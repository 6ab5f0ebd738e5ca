"""The training of every baseline: epochs over the pairs, early stopping, checkpoints.

    loss = sum over terms of weight * (sum of the term over the global batch / its count there)

Each worker computes its rows of a global batch; gradients and counts are added up. So the loss is
the same for any number of workers. A run that goes on from a checkpoint makes the steps that an
unbroken one would have made: the order of pairs follows from seed and epoch, dropout from seed,
step and worker.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

from xrec.config.adapter import LearningRateConfig
from xrec.errors import TrainingError
from xrec.lab.baselines.artifact import TrainedModel
from xrec.lab.baselines.baseline import Recipe
from xrec.lab.baselines.data import BaselineData
from xrec.train.adapter_model import learning_rate_share
from xrec.train.checkpoint import ReadFile, Tensors, progress_file, read_progress, tensors_below
from xrec.train.data import noise_seed

STATE, BEST = "state.safetensors", "best.safetensors"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class BaselineProgress:
    """How far a training is; all that it decides follows from the rows of past epochs.

    `run` is the fingerprint of settings and inputs, `step` counts optimizer steps. `history` has a
    row for each finished epoch, with `epoch` (from 1) and `validation_loss`.
    """

    run: str
    step: int = 0
    history: tuple[Row, ...] = ()

    @property
    def epoch(self) -> int:
        """The epoch that comes next, from 1."""
        return len(self.history) + 1

    @property
    def num_without_gain(self) -> int:
        """How many epochs did not lower the validation loss."""
        losses = [float(row["validation_loss"]) for row in self.history]
        return sum(loss >= min(losses[:place]) for place, loss in enumerate(losses) if place)

    def has_ended(self, recipe: Recipe) -> bool:
        """Whether no epoch comes next."""
        return len(self.history) >= recipe.num_epochs or self.num_without_gain >= recipe.patience

    def learning_rate(self, recipe: Recipe) -> float:
        """The rate of the next epoch."""
        return float(recipe.learning_rate * recipe.learning_rate_decay**self.num_without_gain)

    @property
    def best(self) -> Row:
        """The row of the first epoch with the lowest validation loss."""
        return min(self.history, key=lambda row: float(row["validation_loss"]))


@dataclass(frozen=True)
class Workers:
    """The workers of a training, and which one this is."""

    rank: int = 0
    world_size: int = 1

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum of all workers' tensors, in the place of this one's. Collective."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor


class BaselineTrainer:
    """A worker between two epochs."""

    def __init__(
        self,
        model: TrainedModel,
        data: BaselineData,
        recipe: Recipe,
        *,
        seed: int,
        run: str = "",
        device: torch.device | None = None,
        workers: Workers | None = None,
    ):
        """Train `model`, which is moved to `device`; `run` is the fingerprint of the run."""
        self._device = device or torch.device("cpu")
        self.model = model.to(self._device)
        self._data, self._recipe = data, recipe
        self._rate_share = _rate_share(recipe, len(data.train))
        self._seed, self._workers = seed, workers or Workers()
        self.progress = BaselineProgress(run)
        self.best: Tensors = {}  # the trained parameters of the best epoch, by name
        self._optimizer = getattr(torch.optim, recipe.optimizer)(
            self._trained().values(), lr=recipe.learning_rate, weight_decay=0.0
        )

    @property
    def has_finished(self) -> bool:
        """Whether the training has ended."""
        return self.progress.has_ended(self._recipe)

    def run_epoch(self) -> dict[str, Any]:
        """Train for an epoch and validate; returns its row. Collective.

        Raises TrainingError if a loss is not finite.
        """
        start, epoch = time.monotonic(), self.progress.epoch
        rate = self.progress.learning_rate(self._recipe)
        step, loss = self._train_epoch(rate)
        row = {
            "epoch": epoch,
            "step": step,
            "learning_rate": rate,
            "train_loss": loss,
            "validation_loss": self._validate(),
            "seconds": time.monotonic() - start,
        }
        self._end_epoch(row)
        return row

    def _end_epoch(self, row: dict[str, Any]) -> None:
        if not math.isfinite(row["validation_loss"]):
            raise TrainingError(
                f"epoch {row['epoch']}: the validation loss is {row['validation_loss']}; lower the "
                "learning_rate of the baseline"
            )
        history = (*self.progress.history, row)
        self.progress = replace(self.progress, step=row["step"], history=history)
        if self.progress.best is row:
            self.best = {name: _copied(each) for name, each in self._trained().items()}

    def _trained(self) -> dict[str, Tensor]:
        return {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }

    def _train_epoch(self, rate: float) -> tuple[int, float]:
        """Make the epoch's steps; returns the number of all steps, and the texts' mean NLL."""
        self.model.train()
        nll, count, step = 0.0, 0.0, self.progress.step
        for examples in self._batches():
            for group in self._optimizer.param_groups:
                group["lr"] = rate * self._rate_share(step)
            of_step, counted = self._step(examples, step)
            nll, count, step = nll + of_step, count + counted, step + 1
        return step, nll / count

    def _batches(self) -> Iterator[list[Any]]:
        """The epoch's global batches; the last one may be smaller."""
        examples, size = self._data.train, self._recipe.batch_size
        order = np.random.default_rng([self._seed, self.progress.epoch]).permutation(len(examples))
        for start in range(0, len(order), size):
            yield [examples[index] for index in order[start : start + size]]

    def _step(self, examples: Sequence[Any], step: int) -> tuple[float, float]:
        """Make an optimizer step with a global batch; returns its texts' NLL, and their tokens."""
        workers = self._workers
        torch.manual_seed(noise_seed(self._seed, step, workers.rank))
        self._optimizer.zero_grad()
        counts = self.model.counts(self._batch(examples))
        weights = torch.tensor(self.model.loss_weights) / counts.clamp_min(1)
        totals = torch.zeros_like(counts, device=self._device)
        for batch in self._passes(examples):
            of_pass = self.model(batch)
            (weights.to(self._device) * of_pass).sum().backward()
            totals += of_pass.detach()
        totals = workers.add_up(totals).cpu()
        if not bool(totals.isfinite().all()):
            raise TrainingError(
                f"epoch {self.progress.epoch}, step {step + 1}: the loss is not finite; lower the "
                "learning_rate of the baseline"
            )
        self._apply_gradients()
        return float(totals[0]), float(counts[0])

    def _passes(self, examples: Sequence[Any]) -> Iterator[Any]:
        """This worker's part of a global batch, which may be empty, in passes that fit.

        Texts of similar length go together, so that little is padding.
        """
        own = sorted(examples[self._workers.rank :: self._workers.world_size], key=len)
        most = self._recipe.micro_batch_size
        for start in range(0, len(own), most):
            yield self._batch(own[start : start + most]).to(self._device)

    def _batch(self, examples: Sequence[Any]) -> Any:
        """Texts as the model takes them."""
        return self._data.collate(examples)

    def _apply_gradients(self) -> None:
        parameters = list(self._trained().values())
        if self._workers.world_size > 1:
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                self._workers.add_up(parameter.grad)
        if self._recipe.gradient_clipping is not None:
            torch.nn.utils.clip_grad_norm_(parameters, self._recipe.gradient_clipping)
        self._optimizer.step()

    @torch.no_grad()
    def _validate(self) -> float:
        """The mean NLL of the validation's texts, in nats a token. Collective."""
        self.model.eval()
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        for batch in self._passes(self._data.validation):
            total += self.model(batch)[0]
        count = self.model.counts(self._batch(self._data.validation))[0]
        return float(self._workers.add_up(total)) / float(count)

    def checkpoint(self) -> dict[str, bytes]:
        """Names and contents of the files that `restore` reads."""
        trained = {f"parameter/{name}": _copied(each) for name, each in self._trained().items()}
        optimizer = {
            f"optimizer/{index}/{name}": torch.as_tensor(value).contiguous()
            for index, state in self._optimizer.state_dict()["state"].items()
            for name, value in state.items()
            if value is not None
        }
        return {
            **progress_file(self.progress),
            STATE: safetensors.torch.save({**trained, **optimizer}),
            BEST: safetensors.torch.save(self.best),
        }

    def restore(self, read: ReadFile) -> None:
        """Go on from a checkpoint; raises ArtifactMismatchError if it is another run's."""
        self.progress = read_progress(BaselineProgress, read, self.progress.run)
        self.best = safetensors.torch.load(read(BEST))
        tensors = safetensors.torch.load(read(STATE))
        self.model.load_state_dict(tensors_below(tensors, "parameter"), strict=False)
        states: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors_below(tensors, "optimizer").items():
            index, _, name = key.partition("/")
            states.setdefault(int(index), {})[name] = tensor
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": states, "param_groups": groups})


def _rate_share(recipe: Recipe, num_pairs: int) -> Callable[[int], float]:
    """The share of the learning rate at each step: 1, unless the recipe has a warm-up."""
    if recipe.warmup_share is None:
        return lambda step: 1.0
    num_steps = recipe.num_epochs * math.ceil(num_pairs / recipe.batch_size)
    rate = LearningRateConfig(peak=recipe.learning_rate, warmup_share=recipe.warmup_share)
    return learning_rate_share(rate, num_steps)


def _copied(parameter: Tensor) -> Tensor:
    return parameter.detach().cpu().clone().contiguous()
