"""A worker's losses are those of the code that built all examples in each worker."""

import pytest

from tests.fake_gpu import CPU
from tests.xrec.train.adapter_town import RANDOM, adapter_data, make_config
from tests.xrec.train.one_gpu_worker import become_worker
from xrec.train.adapter_worker import AdapterWorker

# Training and validation loss of two epochs, recorded at 8e8e3e68.
RECORDED = {
    (1, "tokens"): [
        [7.40046201966263, 7.375987320495167],
        [7.368811164356503, 7.367191012814748],
    ],
    (1, "explanations"): [
        [7.394596974054973, 7.367473775690252],
        [7.365351061026256, 7.36074126850475],
    ],
    (2, "tokens"): [
        [7.397902713497822, 7.199107776988637],
        [7.360085192430337, 7.203982574771149],
    ],
    (2, "explanations"): [
        [7.39426310857137, 7.196548938751221],
        [7.3594231605529785, 7.201413790384929],
    ],
}


@pytest.mark.parametrize(("world_size", "weighting"), RECORDED)
def test_adapter_worker_has_the_losses_that_were_recorded(
    workspace, tmp_path, monkeypatch, world_size, weighting
):
    worker = become_worker(monkeypatch, tmp_path / "reports", CPU, world_size)
    changes = {"model": RANDOM, "weighting": weighting, "num_epochs": 2, "num_workers": world_size}
    config = make_config(workspace, zero_stage=1, adapter=tmp_path, **changes)
    training = AdapterWorker(config, adapter_data(config), "run")
    while not training.has_finished:
        training.run_epoch()
    rows = [row for row in worker.reports if "train_loss" in row]
    losses = [[row["train_loss"], row["validation_loss"]] for row in rows]
    # The same to the digit on the machine that recorded them; others may round otherwise.
    for found, expected in zip(losses, RECORDED[world_size, weighting], strict=True):
        assert found == pytest.approx(expected, rel=1e-6)
