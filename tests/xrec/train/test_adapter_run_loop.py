"""A loss that is no number ends a run where it is seen."""

import pytest
import torch

from xrec.errors import TrainingError
from xrec.train import adapter_run_loop
from xrec.train.adapter_run_loop import sum_over_workers


@pytest.mark.parametrize("total", [float("nan"), float("inf")])
def test_sum_over_workers_that_is_no_number_raises_training_error_with_the_place(
    total: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_run_loop, "world_size", lambda: 1)
    assert sum_over_workers(torch.tensor([6.0, 4.0]), "epoch 2, step 7") == [6.0, 4.0]
    with pytest.raises(
        TrainingError,
        match=rf"^epoch 2, step 7: the loss is {total}; lower training\.learning_rate\.peak",
    ):
        sum_over_workers(torch.tensor([total, 4.0]), "epoch 2, step 7")
