"""The training of every baseline: epochs over the pairs, early stopping.

    loss = sum over terms of weight * (sum of the term over the batch / its count there)

The order of pairs follows from seed and epoch, dropout from seed and step.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xrec.errors import TrainingError
from xrec.lab.baselines.artifact import TrainedModel
from xrec.lab.baselines.baseline import Recipe
from xrec.lab.baselines.data import BaselineData
from xrec.train.adapter_model import learning_rate_share
from xrec.train.checkpoint import Tensors
from xrec.train.data import noise_seed

Row = Mapping[str, Any]
"""What is told of a finished epoch: its number from 1, its losses in nats a token, its seconds."""


def has_ended(history: Sequence[Row], recipe: Recipe) -> bool:
    """Whether no epoch comes after those of `history`."""
    return len(history) >= recipe.num_epochs or _num_without_gain(history) >= recipe.patience


def best_row(history: Sequence[Row]) -> Row:
    """The first epoch with the lowest validation loss."""
    return min(history, key=lambda row: float(row["validation_loss"]))


def _num_without_gain(history: Sequence[Row]) -> int:
    """How many epochs did not lower the validation loss."""
    losses = [float(row["validation_loss"]) for row in history]
    return sum(loss >= min(losses[:place]) for place, loss in enumerate(losses) if place)


class BaselineTrainer:
    """Trains `model`, which is moved to `device`, an epoch at a time.

    history: a row for each finished epoch. best: the trained parameters of the best one, by name.
    """

    def __init__(
        self,
        model: TrainedModel,
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
        self._step = 0  # optimizer steps that were made
        self.history: list[Row] = []
        self.best: Tensors = {}
        self._optimizer = getattr(torch.optim, recipe.optimizer)(
            self._trained().values(), lr=recipe.learning_rate, weight_decay=0.0
        )

    @property
    def has_finished(self) -> bool:
        """Whether the training has ended."""
        return has_ended(self.history, self._recipe)

    def run_epoch(self) -> Row:
        """Train for an epoch and validate; returns its row.

        Raises TrainingError if a loss is not finite.
        """
        start, epoch = time.monotonic(), len(self.history) + 1
        decay = self._recipe.learning_rate_decay ** _num_without_gain(self.history)
        rate = self._recipe.learning_rate * decay
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
        """Make the epoch's steps; returns the texts' mean NLL."""
        self.model.train()
        nll, count = 0.0, 0.0
        for examples in self._batches():
            for group in self._optimizer.param_groups:
                group["lr"] = rate * self._rate_share(self._step)
            of_step, counted = self._make_step(examples)
            nll, count = nll + of_step, count + counted
        return nll / count

    def _batches(self) -> Iterator[list[Any]]:
        """The epoch's batches; the last one may be smaller."""
        examples, size = self._data.train, self._recipe.batch_size
        rng = np.random.default_rng([self._seed, len(self.history) + 1])
        order = rng.permutation(len(examples))
        for start in range(0, len(order), size):
            yield [examples[index] for index in order[start : start + size]]

    def _make_step(self, examples: Sequence[Any]) -> tuple[float, float]:
        """Make an optimizer step with a batch; returns its texts' NLL, and their tokens."""
        torch.manual_seed(noise_seed(self._seed, self._step, 0))
        self._optimizer.zero_grad()
        counts = self.model.counts(self._data.collate(examples))
        weights = torch.tensor(self.model.loss_weights) / counts.clamp_min(1)
        totals = torch.zeros_like(counts, device=self._device)
        for batch in self._passes(examples):
            of_pass = self.model(batch)
            (weights.to(self._device) * of_pass).sum().backward()
            totals += of_pass.detach()
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
        """A batch in passes that fit.

        Texts of similar length go together, so that little is padding.
        """
        by_length, most = sorted(examples, key=len), self._recipe.micro_batch_size
        for start in range(0, len(by_length), most):
            yield self._data.collate(by_length[start : start + most]).to(self._device)

    @torch.no_grad()
    def _validate(self) -> float:
        """The mean NLL of the validation's texts, in nats a token."""
        self.model.eval()
        nll, count = 0.0, 0.0
        for batch in self._passes(self._data.validation):
            nll += float(self.model(batch)[0])
            count += float(self.model.counts(batch)[0])
        return nll / count


def _rate_share(recipe: Recipe, num_pairs: int) -> Callable[[int], float]:
    """The share of the learning rate at each step: 1, unless the recipe has a warm-up."""
    if recipe.warmup_share is None:
        return lambda step: 1.0
    num_steps = recipe.num_epochs * math.ceil(num_pairs / recipe.batch_size)
    return learning_rate_share(recipe.warmup_share, num_steps)
