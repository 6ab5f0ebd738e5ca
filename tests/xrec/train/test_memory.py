"""The choice of the ZeRO stage and of the micro-batch size, where they are `auto`."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from tests.errors import raises
from tests.world.models import toy_model
from tests.xrec.train.adapter_town import make_config
from tests.xrec.train.worker import worker_here
from xrec.errors import ConfigError, ModelError
from xrec.llm.examples import Example, collate
from xrec.llm.prefix import num_prefix_tokens
from xrec.train import memory
from xrec.train.memory import (
    largest_that_fits,
    longest_rows,
    memory_of_a_worker,
    model_bytes,
    sizes_to_try,
    with_micro_batch_size,
    with_zero_stage,
)

CPU = torch.device("cpu")
V = 64
ROWS = [
    Example([*range(1, 12), V], [2]),  # the longest beginning
    Example([1, V + 1, 5, 6, 7, 8], [9, 2]),  # the longest rest
    Example([1, 2, V + 2], [7, 8, 9, 2]),  # the longest explanation
]
GRAPH: Any = SimpleNamespace(users=torch.zeros(5, 6))


def data_of(rows: Sequence[Example]) -> Any:
    beginnings = [num_prefix_tokens(row.prompt_ids, V) for row in rows]
    rests = [len(row) - length for row, length in zip(rows, beginnings, strict=True)]
    longest = (max(beginnings), max(rests), max(len(row.label_ids) for row in rows))
    return SimpleNamespace(graph=GRAPH, longest=lambda: longest)


DATA = data_of(ROWS)


@pytest.fixture
def auto(tmp_path):
    """A toy model whose stage and size are auto; nothing but its configuration is there."""
    toy_model().config.save_pretrained(tmp_path / "llm")
    return make_config(str(tmp_path), zero_stage="auto", micro_batch_size="auto")


@pytest.fixture
def two(tmp_path):
    """This process as the only one of two workers on its node."""
    with worker_here(tmp_path, num_workers=2, num_here=1) as worker:
        yield worker


def test_model_bytes_are_those_of_frozen_weights_and_of_adam_for_the_adapters(auto, two):
    frozen = toy_model().num_parameters() * 4
    num_trained = 2 * 2 * (6 * 2 * 32 + 6 + 2 * 6)  # sides, experts, D to 2 tokens of H = 32
    found = model_bytes(auto, DATA, num_workers=2)
    # DeepSpeed counts 2 bytes for a weight and 18 that are shared out.
    assert found[1] == frozen + num_trained * (2 + 18 // 2)
    sharded = frozen / 2 + num_trained * 18 / 2
    assert found[3] == pytest.approx(sharded, abs=4 * 64 * 32)
    zero = auto.deepspeed.model_copy(update={"hpz_partition_size": 2})
    grouped = model_bytes(auto.model_copy(update={"deepspeed": zero}), DATA, num_workers=2)
    assert grouped[3] - found[3] == frozen // 2  # a node's copy


@pytest.mark.parametrize(
    ("share", "deepspeed", "quantization", "expected"),
    [
        (1.0, {}, None, 1),
        (0.99, {}, None, 3),
        (0.99, {}, "int8", 1),  # whose linear maps take a quarter
        (0.0, {"offload": "cpu"}, None, 3),
        (0.0, {"zero_stage": 1}, None, 1),
    ],
)
def test_zero_stage_is_1_where_the_whole_model_fits(
    auto, two, share, deepspeed, quantization, expected
):
    there = model_bytes(auto, DATA, num_workers=2)[1] * share / memory.SHARE_FOR_THE_MODEL
    update = {
        "deepspeed": auto.deepspeed.model_copy(update=deepspeed),
        "llm": auto.llm.model_copy(update={"quantization": quantization}),
    }
    config = with_zero_stage(auto.model_copy(update=update), DATA, memory=int(there) + 2)
    assert config.deepspeed.zero_stage == expected
    if not deepspeed:
        assert two.notes[-1].endswith(f"auto: deepspeed.zero_stage = {expected}")


@pytest.mark.parametrize(
    ("texts", "expected"), [([], 2000), (["max\n"], 2000), (["1000\n"], 500), (["9" * 19], 2000)]
)
def test_memory_of_a_worker_is_its_part_of_the_node_or_of_the_containers_limit(
    tmp_path, texts, expected
):
    files = [tmp_path / "max", tmp_path / "limit"]
    for file, text in zip(files, texts, strict=False):
        file.write_text(text)
    assert memory_of_a_worker(CPU, 2, limits=files, node_bytes=4000) == expected


@pytest.mark.parametrize(
    ("global_batch_size", "num_workers", "expected"),
    [(32, 1, [1, 2, 4, 8, 16, 32]), (32, 8, [1, 2, 4]), (12, 1, [1, 2, 4]), (9, 3, [1])],
)
def test_sizes_to_try_divide_a_workers_part_of_the_global_batch(
    global_batch_size, num_workers, expected
):
    sizes = {"global_batch_size": global_batch_size, "micro_batch_size": "auto"}
    assert sizes_to_try(make_config("w", num_workers=num_workers, **sizes)) == expected


@pytest.mark.parametrize(
    ("rows", "beginning", "rest", "num_labels"),
    [(ROWS, 11, 7, 4), ([Example([V, 5], [2]), Example([V + 1], [3, 2])], 0, 3, 2)],
)
def test_longest_rows_are_as_long_as_the_longest_of_each_part(rows, beginning, rest, num_labels):
    longest = longest_rows(data_of(rows), 3, V)
    for row in longest:
        assert num_prefix_tokens(row.prompt_ids, V) == beginning
        assert len(row) == beginning + rest
    assert len({tuple(row.prompt_ids[:beginning]) for row in longest}) == (3 if beginning else 1)
    assert collate(longest).labels.shape == (3, num_labels)


@pytest.mark.parametrize(
    ("most_rows", "tried", "expected"),
    [(16, [16], 16), (5, [16, 8, 4], 4)],
)
def test_micro_batch_size_is_the_largest_whose_step_fits(two, most_rows, tried, expected):
    step = Step(most_rows)
    assert largest_that_fits([1, 2, 4, 8, 16], step) == expected
    assert step.tried == tried


class Step:
    """A step that needs a GPU with room for so many rows; `tried` are their numbers."""

    def __init__(self, most_rows: int) -> None:
        self._most_rows, self.tried = most_rows, list[int]()

    def __call__(self, num_rows: int) -> None:
        self.tried.append(num_rows)
        if num_rows > self._most_rows:
            raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize(("zero_stage", "expected"), [(1, memory.MOST_ON_CPU), (3, 1)])
def test_micro_batch_size_on_a_cpu_or_at_stage_3_is_chosen_without_a_step(
    two, zero_stage, expected
):
    auto = make_config("w", num_workers=1, zero_stage=zero_stage, micro_batch_size="auto")
    config = with_micro_batch_size(auto, DATA, V, Mock(side_effect=AssertionError))
    assert config.training.micro_batch_size == expected
    assert f"training.micro_batch_size = {expected}, " in two.notes[-1]
    assert with_micro_batch_size(config, DATA, V, Mock()) is config  # a number stays


def test_group_of_workers_that_would_span_nodes_is_refused(auto, tmp_path):
    zero = auto.deepspeed.model_copy(update={"zero_stage": 3, "hpz_partition_size": 4})
    config = auto.model_copy(update={"deepspeed": zero})
    with worker_here(tmp_path, num_workers=8):
        assert with_zero_stage(config, DATA) is config
    with (
        worker_here(tmp_path, num_workers=6),
        raises(ConfigError, "group_spans_nodes", "deepspeed.hpz_partition_size", 4),
    ):
        with_zero_stage(config, DATA)


def test_model_or_row_that_does_not_fit_is_refused(auto, two):
    with raises(ModelError, "model_does_not_fit", "deepspeed.zero_stage"):
        with_zero_stage(auto, DATA, memory=1000)
    with raises(ModelError, "row_does_not_fit", "training.micro_batch_size"):
        largest_that_fits([1, 2], Step(0))
    with pytest.raises(RuntimeError, match="device-side assert"):
        largest_that_fits([1, 2], Mock(side_effect=RuntimeError("device-side assert")))
