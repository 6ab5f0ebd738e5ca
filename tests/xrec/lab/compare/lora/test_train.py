"""Training of the low-rank weights on Ray: a killed run ends as an unbroken one."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.xrec.lab.compare.conftest import MakeConfig
from xrec.config.compare import CompareConfig
from xrec.errors import ConfigError, DataError, TrainingError
from xrec.lab.compare.lora.train import train_lora
from xrec.lab.compare.lora.worker import training_examples
from xrec.llm.collaborative import Vocabulary
from xrec.storage import Manifest, open_location

pytest.importorskip("peft", reason="the extra compare is not installed")
LORA: dict[str, Any] = {
    "num_epochs": 3,
    "global_batch_size": 16,
    "micro_batch_size": 4,
    "learning_rate": {"peak": 0.02},
    "steps_per_checkpoint": 2,
}


def config_of(make_config: MakeConfig, num_workers: int = 1, **lora: Any) -> CompareConfig:
    return make_config(
        contestants=["lora"],
        lora={**LORA, **lora},
        scaling={"num_workers": num_workers, "device": "cpu", "max_failures": 0},
    )


def train(config: CompareConfig, folder: Path) -> tuple[Manifest, dict[str, torch.Tensor]]:
    manifest = train_lora(config, config.lora_of(0), open_location(str(folder)))
    return manifest, safetensors.torch.load((folder / "adapter_model.safetensors").read_bytes())


def test_prompts_are_in_words_only_and_pairs_are_those_of_the_budget(
    make_config: MakeConfig,
) -> None:
    config = config_of(make_config)
    budget = config.lora.model_copy(update={"max_pairs": 40})
    examples = training_examples(config, budget)
    assert len(examples) == 40
    vocabulary = Vocabulary(400, 40, 30)
    tokens = itertools.chain.from_iterable(example.prompt_ids for example in examples)
    assert max(tokens) < vocabulary.num_text_tokens
    with pytest.raises(DataError, match=r"expected at least lora\.global_batch_size = 16"):
        training_examples(config, config.lora.model_copy(update={"max_pairs": 3}))


def test_batch_that_does_not_divide_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lora\.global_batch_size = 10 is no multiple"):
        train(config_of(make_config, global_batch_size=10), tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_killed_training_goes_on_and_ends_with_the_same_weights_as_an_unbroken_one(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(make_config)
    manifest, whole = train(config, tmp_path / "whole")
    assert manifest.metrics["num_steps"] >= 6
    assert manifest.metrics["num_trained_parameters"] == sum(w.numel() for w in whole.values())
    assert manifest.metrics["training_seconds"] > 0
    assert any(bool(weight.any()) for name, weight in whole.items() if "lora_B" in name)
    with monkeypatch.context() as patch:
        patch.setattr("xrec.lab.compare.lora.train.lora_worker", dies_at_step(5))
        with pytest.raises(TrainingError):
            train(config, tmp_path / "killed")
    assert (tmp_path / "killed" / "checkpoints").exists()
    _, resumed = train(config, tmp_path / "killed")
    assert set(resumed) == set(whole)
    for name, weight in whole.items():
        assert torch.allclose(resumed[name], weight, atol=1e-6), name
    assert not (tmp_path / "killed" / "checkpoints").exists()
    again, _ = train(config, tmp_path / "killed")
    assert again.run == manifest.run


def dies_at_step(step: int) -> Callable[[dict[str, Any]], None]:
    def worker(loop_config: dict[str, Any]) -> None:
        import os
        import signal

        from xrec.lab.compare.lora import worker as module

        real = module.LoraWorker._steps_left

        def until(self: Any) -> Iterator[Any]:
            for micro_batches in real(self):
                if self._progress.step == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield micro_batches

        module.LoraWorker._steps_left = until  # type: ignore[method-assign]
        module.lora_worker(loop_config)

    return worker


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_train_as_one(make_config: MakeConfig, tmp_path: Path) -> None:
    _, one = train(config_of(make_config), tmp_path / "one")
    _, two = train(config_of(make_config, num_workers=2), tmp_path / "two")
    for name, weight in one.items():
        assert torch.allclose(two[name], weight, atol=1e-4), name
