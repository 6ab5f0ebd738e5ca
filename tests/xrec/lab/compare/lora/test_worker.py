"""Training of the low-rank weights in this process: steps, checkpoints, and going on from one."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from tests.xrec.lab.compare.conftest import MakeConfig
from xrec.config.compare import CompareConfig
from xrec.errors import TrainingError
from xrec.lab.compare.lora.weights import weights_of
from xrec.lab.compare.lora.worker import LoraWorker, training_examples

pytest.importorskip("peft", reason="the extra compare is not installed")
Files = Mapping[str, bytes]


class Process:
    """Stands in for Ray Train: one worker, whose checkpoints are kept here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.checkpoints: list[Files] = []
        self.resumes_from: Files | None = None
        self.losses: list[float] = []
        found: dict[str, Callable[..., Any]] = {
            "rank": lambda: 0,
            "world_size": lambda: 1,
            "worker_device": lambda: torch.device("cpu"),
            "note": lambda text: None,
            "note_step": lambda epoch, step, num_steps, loss: self.losses.append(loss),
            "report": lambda row, files: self.checkpoints.append(files),
            "last_checkpoint": self._last_checkpoint,
        }
        for name, function in found.items():
            monkeypatch.setattr(f"xrec.lab.compare.lora.worker.{name}", function)

    @contextmanager
    def _last_checkpoint(self) -> Iterator[Callable[[str], bytes] | None]:
        files = self.resumes_from
        yield None if files is None else (lambda name: files[name])


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    return Process(monkeypatch)


def config_of(make_config: MakeConfig, **lora: Any) -> CompareConfig:
    values = {
        "num_epochs": 4,
        "global_batch_size": 16,
        "micro_batch_size": 8,
        "learning_rate": {"peak": 0.02},
        "steps_per_checkpoint": 3,
        **lora,
    }
    return make_config(contestants=["lora"], lora=values, budget={"max_pairs": 48})


def trained(config: CompareConfig) -> dict[str, torch.Tensor]:
    worker = LoraWorker(config, config.lora, training_examples(config, config.lora_of(0)))
    before = {
        name: weight.clone()
        for name, weight in worker._model.named_parameters()
        if not weight.requires_grad
    }
    worker.train()
    for name, weight in worker._model.named_parameters():
        if not weight.requires_grad:
            assert torch.equal(weight, before[name]), name  # the language model stays as it is
    return weights_of(worker._model)


def test_loss_falls_and_checkpoints_come_at_their_steps(
    make_config: MakeConfig, process: Process
) -> None:
    trained(config_of(make_config))
    assert len(process.losses) == 12  # 48 pairs in batches of 16, four times
    assert sum(process.losses[-3:]) < 0.9 * sum(process.losses[:3])
    assert len(process.checkpoints) == 12 // 3 + 1


@pytest.mark.parametrize("place", [0, 1, 2])
def test_run_that_goes_on_from_a_checkpoint_ends_with_the_same_weights(
    make_config: MakeConfig, process: Process, place: int
) -> None:
    config = config_of(make_config, dropout=0.1)
    whole = trained(config)
    process.resumes_from = process.checkpoints[place]
    resumed = trained(config)
    assert all(torch.allclose(resumed[name], whole[name], atol=1e-6) for name in whole)


def test_run_is_the_same_each_time(make_config: MakeConfig, process: Process) -> None:
    one, other = (trained(config_of(make_config, num_epochs=1)) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_other_seed_gives_other_weights(make_config: MakeConfig, process: Process) -> None:
    one, other = (trained(config_of(make_config, seed=seed, num_epochs=1)) for seed in (0, 1))
    assert any(not torch.allclose(one[name], other[name]) for name in one)


def test_loss_that_is_no_number_ends_it(make_config: MakeConfig, process: Process) -> None:
    config = config_of(make_config, learning_rate={"peak": 1e20}, gradient_clipping=0)
    with pytest.raises(TrainingError, match=r"lower lora\.learning_rate\.peak"):
        trained(config)
