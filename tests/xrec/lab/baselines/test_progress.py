"""When a baseline's training stops, and at which rate it goes on."""

import pytest

from xrec.config.baselines import Att2SeqConfig
from xrec.lab.baselines.progress import BaselineProgress


def _progress(*losses: float, phase: int = 0) -> BaselineProgress:
    rows = tuple(
        {"epoch": epoch, "phase": phase, "validation_loss": loss}
        for epoch, loss in enumerate(losses, start=1)
    )
    return BaselineProgress("run", history=rows)


@pytest.mark.parametrize(
    ("losses", "has_ended"),
    [
        ((), False),
        ((3.0, 2.0, 1.0), False),
        ((3.0, 2.0, 1.0, 0.5), True),  # all epochs
        ((1.0, 1.0, 1.0), True),  # an equal loss is no gain
        ((1.0, 2.0, 0.5), False),
        ((2.0, 3.0, 1.0, 1.5), True),  # two without a gain, though not in a row
    ],
)
def test_progress_phase_ends_with_its_epochs_or_its_patience(
    losses: tuple[float, ...], has_ended: bool
) -> None:
    recipe = Att2SeqConfig(num_epochs=4, patience=2)
    assert (_progress(*losses).phase(recipe, 1) is None) is has_ended


def test_progress_second_phase_begins_when_the_first_has_ended() -> None:
    recipe = Att2SeqConfig(num_epochs=2)
    assert _progress(3.0).phase(recipe, 2) == 0
    both = BaselineProgress(
        "run", history=(*_progress(3.0, 2.0).history, *_progress(9.0, phase=1).history)
    )
    assert both.phase(recipe, 2) == 1
    assert both.best(1)["validation_loss"] == 9.0
    assert both.best(0)["epoch"] == 2


def test_progress_rate_falls_with_each_epoch_without_gain() -> None:
    recipe = Att2SeqConfig(learning_rate=1.0, learning_rate_decay=0.25)
    progress = _progress(3.0, 2.0, 2.5, 1.0, 1.0)
    assert progress.learning_rate(0, recipe) == pytest.approx(0.25**2)
    assert progress.learning_rate(1, recipe) == 1.0  # a phase begins with the whole rate
    assert progress.epoch == 6
