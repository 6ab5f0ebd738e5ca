"""Which micro-batch sizes are tried, with which rows, and the choice by estimate."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.xrec.train.adapter_town import build_workspace, make_config
from tests.xrec.train.one_gpu_worker import become_worker
from xrec.config.adapter import TrainAdapterConfig
from xrec.errors import ConfigError
from xrec.llm.examples import Example, collate
from xrec.train.adapter import adapter_run_config, train_adapter
from xrec.train.adapter_worker import AdapterWorker
from xrec.train.data import load_adapter_data
from xrec.train.memory import worker_memory
from xrec.train.micro_batch import (
    MOST_ON_CPU,
    chosen_size,
    longest_rows,
    sizes_to_try,
    with_estimated_size,
    with_tried_size,
)
from xrec.train.prefix_cache import PartLengths
from xrec.train.sharding import estimate_inputs

CPU = torch.device("cpu")
V = 64
ROWS = [
    Example([*range(1, 12), V], [2]),  # the longest beginning
    Example([1, V + 1, 5, 6, 7, 8], [9, 2]),  # the longest rest
    Example([1, 2, V + 2], [7, 8, 9, 2]),  # the longest explanation
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_workspace(tmp_path_factory.mktemp("workspace"))


def auto(workspace: str, **changes: Any) -> TrainAdapterConfig:
    changes = {"num_workers": 1, "zero_stage": 0, **changes}
    return make_config(workspace, micro_batch_size="auto", **changes)


@pytest.mark.parametrize(
    ("global_batch_size", "num_workers", "expected"),
    [(32, 1, [1, 2, 4, 8, 16, 32]), (32, 8, [1, 2, 4]), (12, 1, [1, 2, 4]), (9, 3, [1])],
)
def test_sizes_to_try_divide_a_workers_part_of_the_global_batch(
    global_batch_size: int, num_workers: int, expected: list[int]
) -> None:
    config = auto("w", global_batch_size=global_batch_size, num_workers=num_workers)
    assert sizes_to_try(config) == expected


def test_longest_rows_are_as_long_as_the_longest_of_each_part() -> None:
    rows = longest_rows(ROWS, 3, V)
    lengths = PartLengths.of(rows, V)
    assert lengths.beginnings == [11] * 3
    assert lengths.rests == [7] * 3
    assert len({tuple(row.prompt_ids[:11]) for row in rows}) == 3
    batch = collate(rows)
    assert batch.labels.shape == (3, 4)
    assert batch.labels.max() < V
    without = [Example([V, 5], [2]), Example([V + 1], [3, 2])]
    assert PartLengths.of(longest_rows(without, 2, V), V) == PartLengths([0, 0], [3, 3])


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("expected", [1, 2, 4, MOST_ON_CPU])
def test_with_estimated_size_takes_the_largest_that_fits(
    workspace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: int,
    expected: int,
) -> None:
    become_worker(monkeypatch, tmp_path, CPU)
    monkeypatch.setattr("xrec.train.micro_batch.local_world_size", lambda: 1)
    config = auto(workspace, zero_stage=stage)
    data = load_adapter_data(config)
    shape, load = estimate_inputs(config, data)
    load = replace(load, micro_batch_size=expected)
    available = worker_memory(shape, load, stage=stage, num_workers=1).total
    monkeypatch.setattr("xrec.train.micro_batch.device_memory", lambda *_: available)
    assert chosen_size(with_estimated_size(config, data)) == expected
    monkeypatch.setattr("xrec.train.micro_batch.device_memory", lambda *_: 10**15)
    assert chosen_size(with_estimated_size(config, data)) == MOST_ON_CPU
    monkeypatch.setattr("xrec.train.micro_batch.device_memory", lambda *_: 0)
    assert chosen_size(with_estimated_size(config, data)) == 1


def test_with_estimated_size_at_stage_3_on_a_gpu_tries_no_step_and_has_no_bound(
    workspace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    become_worker(monkeypatch, tmp_path, torch.device("cuda", 0))
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    monkeypatch.setattr("xrec.train.micro_batch.local_world_size", lambda: 1)
    monkeypatch.setattr("xrec.train.micro_batch.device_memory", lambda *_: 10**15)
    config = auto(workspace, zero_stage=3)
    data = load_adapter_data(config)
    sized = with_estimated_size(config, data)
    assert chosen_size(sized) == 16
    assert with_tried_size(sized, data, V, lambda _: pytest.fail("a step was tried")) is sized
    whole = auto(workspace, zero_stage=1)
    assert with_estimated_size(whole, data) is whole


def test_micro_batch_size_by_estimate_gives_the_run_with_that_size_bit_by_bit(
    workspace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xrec.train.micro_batch.local_world_size", lambda: 1)

    def losses(config: TrainAdapterConfig) -> tuple[int, list[float]]:
        worker = become_worker(monkeypatch, tmp_path / f"{config.training.micro_batch_size}", CPU)
        training = AdapterWorker(config, load_adapter_data(config), "run")
        while not training.has_finished:
            training.run_epoch()
        (row,) = (row for row in worker.reports if "train_loss" in row)
        return row["micro_batch_size"], [row["train_loss"], row["validation_loss"]]

    settings: dict[str, Any] = {"num_epochs": 1, "max_steps": 1, "max_validation_pairs": 4}
    fixed = make_config(workspace, num_workers=1, zero_stage=0, micro_batch_size=8, **settings)
    assert losses(auto(workspace, **settings)) == losses(fixed)


def test_micro_batch_size_auto_is_in_the_adapters_identity() -> None:
    runs = [adapter_run_config(make_config("w", micro_batch_size=size)) for size in ("auto", 4)]
    assert [run["training"]["micro_batch_size"] for run in runs] == ["auto", 4]


def test_micro_batch_size_auto_needs_a_global_batch_that_divides_among_the_workers() -> None:
    with pytest.raises(ConfigError, match=r"global_batch_size = 30 is no multiple of .* = 4;"):
        train_adapter(auto("w", num_workers=4, global_batch_size=30))
