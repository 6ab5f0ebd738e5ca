"""How far a baseline's training is; all that it decides follows from the rows of past epochs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xrec.config.baselines import RecipeConfig

Row = Mapping[str, Any]


@dataclass(frozen=True)
class BaselineProgress:
    """`run` is the fingerprint of settings and inputs, `step` counts optimizer steps.

    `history` has a row for each finished epoch, with `epoch` (from 1), `phase` (from 0) and
    `validation_loss`.
    """

    run: str
    step: int = 0
    history: tuple[Row, ...] = ()

    def after_epoch(self, row: Row, step: int) -> "BaselineProgress":
        """The progress when one more epoch is done, which ended at optimizer step `step`."""
        return replace(self, step=step, history=(*self.history, row))

    @property
    def epoch(self) -> int:
        """The epoch that comes next, from 1."""
        return len(self.history) + 1

    def rows_of(self, phase: int) -> tuple[Row, ...]:
        """The rows of a phase."""
        return tuple(row for row in self.history if row["phase"] == phase)

    def phase(self, recipe: RecipeConfig, num_phases: int) -> int | None:
        """The phase of the epoch that comes next; None if the training has ended."""
        return next((each for each in range(num_phases) if not self._ended(each, recipe)), None)

    def _ended(self, phase: int, recipe: RecipeConfig) -> bool:
        rows = self.rows_of(phase)
        return len(rows) >= recipe.num_epochs or num_without_gain(rows) >= recipe.patience

    def learning_rate(self, phase: int, recipe: RecipeConfig) -> float:
        """The rate of the phase's next epoch."""
        decay = recipe.learning_rate_decay ** num_without_gain(self.rows_of(phase))
        return float(recipe.learning_rate * decay)

    def best(self, phase: int) -> Row:
        """The row of the phase's epoch with the lowest validation loss; of several, the first."""
        return min(self.rows_of(phase), key=lambda row: float(row["validation_loss"]))


def num_without_gain(rows: Sequence[Row]) -> int:
    """How many epochs of a phase did not lower the validation loss."""
    losses = [float(row["validation_loss"]) for row in rows]
    return sum(loss >= min(losses[:place]) for place, loss in enumerate(losses) if place)
