"""The state between two steps: what it counts, and that it is read as it was written."""

import pytest
import torch

from xrec.train.adapter_checkpoint import (
    Progress,
    TrainedTensors,
    checkpoint_files,
    noise_seed,
    read_best,
    read_progress,
    read_trained,
)


def progress_after(losses: list[float]) -> Progress:
    progress = Progress("r1")
    for loss in losses:
        progress = progress.after_step(1.0, 2.0, 0.5).after_epoch({"validation_loss": loss})
    return progress


@pytest.mark.parametrize(
    ("losses", "best", "without_gain"),
    [
        ([3.0], 3.0, 0),
        ([3.0, 2.0, 2.0], 2.0, 1),
        ([3.0, 2.0, 4.0, 1.0], 1.0, 0),
        ([1.0, 2.0, 3.0], 1.0, 2),
    ],
)
def test_progress_knows_the_best_epoch_and_how_long_ago_it_was(
    losses: list[float], best: float, without_gain: int
) -> None:
    progress = progress_after(losses)
    assert progress.best["validation_loss"] == best
    assert progress.evaluations_without_gain == without_gain
    assert (progress.epoch, progress.step, progress.step_in_epoch) == (
        len(losses) + 1,
        len(losses),
        0,
    )


def test_progress_of_an_epoch_is_the_mean_over_its_tokens_only() -> None:
    progress = progress_after([3.0]).after_step(10.0, 4.0, 1.0).after_step(20.0, 6.0, 2.0)
    assert progress.train_loss == 3.0
    assert (progress.epoch, progress.step, progress.step_in_epoch, progress.epoch_seconds) == (
        2,
        3,
        2,
        3.0,
    )


def test_progress_before_the_first_epoch_has_no_evaluations_without_gain() -> None:
    assert Progress("r1").evaluations_without_gain == 0


@pytest.mark.parametrize("best", [{}, {"user.weight": torch.tensor([5.0])}])
def test_checkpoint_files_read_back_are_equal(best: dict[str, torch.Tensor]) -> None:
    progress = progress_after([0.1 + 0.2]).after_step(1 / 3, 7.0, 0.1)
    trained = TrainedTensors(
        *({"a.weight": torch.rand(2, 3) / 3, "b": torch.rand(4)} for _ in range(3))
    )
    files = checkpoint_files(progress, trained, best)
    assert sorted(files) == ["adapter.safetensors", "progress.json", "state.safetensors"]
    assert read_progress(files.__getitem__, "r1") == progress
    torch.testing.assert_close(vars(read_trained(files.__getitem__)), vars(trained), rtol=0, atol=0)
    torch.testing.assert_close(read_best(files.__getitem__), best, rtol=0, atol=0)


def test_noise_seed_differs_for_each_seed_step_and_micro_batch() -> None:
    seeds = [
        noise_seed(seed, step, micro_batch)
        for seed in range(3)
        for step in range(20)
        for micro_batch in range(20)
    ]
    assert len(set(seeds)) == len(seeds)
    torch.manual_seed(max(seeds))  # in torch's range
