"""The training of every baseline: epochs over the pairs, with early stopping.

    loss = sum over losses of weight * (sum of the loss over the batch / number of its values)

The order of pairs follows from seed and epoch, and dropout from seed and step.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xrec.errors import TrainingError
from xrec.lab.baselines.baseline import Recipe
from xrec.lab.baselines.data import BaselineData
from xrec.lab.baselines.writer import Trained
from xrec.train.adapter_model import learning_rate_share
from xrec.train.checkpoint import Tensors
from xrec.train.data import noise_seed

Row = Mapping[str, Any]
"""A finished epoch: its number from 1, phase, step, losses in nats per token, and seconds."""


def best_row(history: Sequence[Row]) -> Row:
    """Return the first epoch with the lowest validation loss."""
    return min(history, key=lambda row: float(row["validation_loss"]))


class BaselineTrainer:
    """Trains `model` on `device`, one epoch at a time.

    history: a row per finished epoch. best: the trained parameters of the best one, by name.
    """

    def __init__(
        self,
        model: Trained,
        data: BaselineData,
        recipe: Recipe,
        *,
        seed: int,
        device: torch.device | None = None,
    ):
        self._device = device or torch.device("cpu")
        self.model = model.to(self._device)
        self._data, self._recipe, self._seed = data, recipe, seed
        self._rate_share = _rate_share(recipe, len(data.train))
        self._step = 0  # finished optimizer steps
        self._phase = 0
        self.history: list[Row] = []
        self.best: Tensors = {}
        self._begin_phase()

    def _begin_phase(self) -> None:
        """Continue from the best parameters so far, with a new optimizer."""
        self.model.load_state_dict(self.best, strict=False)
        self.model.begin_phase(self._phase)
        self._optimizer = getattr(torch.optim, self._recipe.optimizer)(
            self._trained().values(), lr=self._recipe.learning_rate, weight_decay=0.0
        )

    @property
    def has_finished(self) -> bool:
        """Whether the last phase has ended."""
        return self._phase == self.model.num_phases - 1 and self._phase_has_ended()

    def _phase_has_ended(self) -> bool:
        num_epochs = sum(row["phase"] == self._phase for row in self.history)
        return num_epochs >= self._recipe.num_epochs or self._num_worse() >= self._recipe.patience

    def _num_worse(self) -> int:
        """Return how many epochs of the phase did not lower its validation loss."""
        losses = [row["validation_loss"] for row in self.history if row["phase"] == self._phase]
        return sum(loss >= min(losses[:index]) for index, loss in enumerate(losses) if index)

    def run_epoch(self) -> Row:
        """Train for one epoch, validate, and return the epoch's row.

        Raises TrainingError if a loss is not finite.
        """
        if self._phase_has_ended():
            self._phase += 1
            self._begin_phase()
        start, epoch = time.monotonic(), len(self.history) + 1
        rate = self._recipe.learning_rate * self._recipe.learning_rate_decay ** self._num_worse()
        train_loss, validation_loss = self._train_epoch(rate), self._validate()
        if not math.isfinite(validation_loss):
            raise TrainingError(
                f"epoch {epoch}: the validation loss is {validation_loss}; lower the "
                "learning_rate of the baseline",
                code="loss_not_finite",
                key="learning_rate",
                saw=validation_loss,
            )
        row = {
            "epoch": epoch,
            "phase": self._phase,
            "step": self._step,
            "learning_rate": rate,
            "train_loss": train_loss,
            "validation_loss": validation_loss,
            "seconds": time.monotonic() - start,
        }
        self.history.append(row)
        if best_row(self.history) is row:
            trained = self._trained().items()
            self.best = {name: each.detach().cpu().clone().contiguous() for name, each in trained}
        return row

    def _trained(self) -> dict[str, Tensor]:
        named = self.model.named_parameters()
        return {name: parameter for name, parameter in named if parameter.requires_grad}

    def _train_epoch(self, rate: float) -> float:
        """Run the epoch's steps; return the mean NLL of the texts' tokens."""
        self.model.train()
        nll, count = 0.0, 0.0
        for examples in self._batches():
            for group in self._optimizer.param_groups:
                group["lr"] = rate * self._rate_share(self._step)
            step_nll, step_count = self._make_step(examples)
            nll, count = nll + step_nll, count + step_count
        return nll / count

    def _batches(self) -> Iterator[list[Any]]:
        """Yield the epoch's batches; the last one may be smaller."""
        examples, size = self._data.train, self._recipe.batch_size
        rng = np.random.default_rng([self._seed, len(self.history) + 1])
        order = rng.permutation(len(examples))
        for start in range(0, len(order), size):
            yield [examples[index] for index in order[start : start + size]]

    def _make_step(self, examples: Sequence[Any]) -> tuple[float, float]:
        """Run one optimizer step; return the NLL of the texts, and the number of their tokens."""
        torch.manual_seed(noise_seed(self._seed, self._step, 0))
        self._optimizer.zero_grad()
        counts = self.model.counts(self._data.collate(examples))
        weights = torch.tensor(self.model.loss_weights) / counts.clamp_min(1)
        totals = torch.zeros_like(counts, device=self._device)
        for batch in self._passes(examples):
            losses = self.model(batch)
            (weights.to(self._device) * losses).sum().backward()
            totals += losses.detach()
        self._step += 1
        if not bool(totals.isfinite().all()):
            raise TrainingError(
                f"epoch {len(self.history) + 1}, step {self._step}: the loss is not finite; lower "
                "the learning_rate of the baseline",
                code="loss_not_finite",
                key="learning_rate",
            )
        if self._recipe.gradient_clipping is not None:
            trained = list(self._trained().values())
            torch.nn.utils.clip_grad_norm_(trained, self._recipe.gradient_clipping)
        self._optimizer.step()
        return float(totals[0]), float(counts[0])

    def _passes(self, examples: Sequence[Any]) -> Iterator[Any]:
        """Yield a batch in micro-batches, sorted by length so that little is padding."""
        by_length, size = sorted(examples, key=len), self._recipe.micro_batch_size
        for start in range(0, len(by_length), size):
            yield self._data.collate(by_length[start : start + size]).to(self._device)

    @torch.no_grad()
    def _validate(self) -> float:
        """Return the mean NLL of the validation texts, in nats per token."""
        self.model.eval()
        nll, count = 0.0, 0.0
        for batch in self._passes(self._data.validation):
            nll += float(self.model(batch)[0])
            count += float(self.model.counts(batch)[0])
        return nll / count


def _rate_share(recipe: Recipe, num_pairs: int) -> Callable[[int], float]:
    """Return the share of the learning rate at each step: 1, unless the recipe has a warm-up."""
    if recipe.warmup_share is None:
        return lambda step: 1.0
    num_steps = recipe.num_epochs * math.ceil(num_pairs / recipe.batch_size)
    return learning_rate_share(recipe.warmup_share, num_steps)
