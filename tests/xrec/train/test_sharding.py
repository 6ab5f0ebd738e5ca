"""What the estimate of memory is made from: the model's shape and the lengths of all rows."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.decoders import tiny_image_model
from tests.toy import attach_toy, toy_model
from tests.xrec.train.adapter_town import make_config
from xrec.config.adapter import TrainAdapterConfig
from xrec.errors import ModelError
from xrec.llm.examples import Example
from xrec.train.data import AdapterData
from xrec.train.memory import num_trained_parameters
from xrec.train.prefix_cache import PrefixCache
from xrec.train.sharding import estimate_inputs, with_sharding

V = 64
# The longest row has 13 tokens, of which 11 stand before its collaborative token. In a batch of
# both rows there are places for these 11 and for the other row's 7: 18 in all.
ROWS = [Example([*range(1, 12), V], [2]), Example([1, 2, V + 1, 5, 6], [7, 8, 9, 2])]
BYTES_A_TOKEN = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, head_dim, float32


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.train.torch.get_device", lambda: torch.device("cpu"))


def data_of(train: list[Example], validation: list[Example]) -> AdapterData:
    graph: Any = SimpleNamespace(users=torch.zeros(5, 6))
    return AdapterData(train, validation, Counter(), graph)


def config_of(model: Path, **training: Any) -> TrainAdapterConfig:
    config = make_config(str(model.parent), **training)
    return config.model_copy(update={"llm": config.llm.model_copy(update={"model": str(model)})})


def test_estimate_inputs_are_the_longest_parts_of_all_rows(tmp_path: Path) -> None:
    model = toy_model()
    model.save_pretrained(tmp_path / "llm")
    config = config_of(tmp_path / "llm", micro_batch_size=4)
    shape, load = estimate_inputs(config, data_of(ROWS[:1], ROWS[1:]))
    assert shape.num_parameters == model.num_parameters()
    assert (load.micro_batch_size, load.dtype_bytes, load.is_int8) == (4, 4, False)
    assert (load.longest_row, load.longest_beginning, load.longest_rest) == (13, 11, 7)
    assert load.longest_explanation == 4
    assert load.prefix_cache_bytes == (11 + 2) * BYTES_A_TOKEN
    assert load.num_trained == num_trained_parameters(config.model, embedding_dim=6, hidden_size=32)
    _, small = estimate_inputs(
        config_of(tmp_path / "llm", prefix_cache_gib=2.0**-30), data_of(ROWS, ROWS)
    )
    assert small.prefix_cache_bytes == 1


@pytest.mark.parametrize(("window", "splits"), [(13, False), (17, False), (18, True)])
def test_estimate_inputs_split_rows_where_the_prefix_cache_does(
    window: int, splits: bool, tmp_path: Path
) -> None:
    model = toy_model()
    model.config.sliding_window = window
    model.save_pretrained(tmp_path / "llm")
    attach_toy(model, "projected")
    cache = PrefixCache(model, ROWS, budget_bytes=0)
    assert max(map(cache.num_rest_tokens, ROWS)) == (7 if splits else 13)
    _, load = estimate_inputs(config_of(tmp_path / "llm"), data_of(ROWS, ROWS[:1]))
    assert load.longest_rest == (7 if splits else 13)
    assert load.longest_beginning == (11 if splits else 0)
    assert (load.prefix_cache_bytes > 0) is splits


def test_estimate_inputs_with_gradient_checkpointing_split_nothing(tmp_path: Path) -> None:
    toy_model().save_pretrained(tmp_path / "llm")
    _, load = estimate_inputs(
        config_of(tmp_path / "llm", gradient_checkpointing=True), data_of(ROWS, ROWS)
    )
    assert (load.longest_rest, load.longest_beginning, load.prefix_cache_bytes) == (13, 0, 0)


def test_estimate_inputs_of_text_and_images_are_those_of_the_text_decoder(tmp_path: Path) -> None:
    model = tiny_image_model()
    model.save_pretrained(tmp_path / "llm")
    shape, _ = estimate_inputs(config_of(tmp_path / "llm"), data_of(ROWS, ROWS))
    assert shape.vocab_size == V
    assert shape.num_parameters < model.num_parameters()


def test_with_sharding_refuses_a_model_that_fits_at_no_stage_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_model().save_pretrained(tmp_path / "llm")
    (tmp_path / "llm" / "model.safetensors").unlink()
    monkeypatch.setattr("xrec.train.sharding.world_size", lambda: 2)
    monkeypatch.setattr("xrec.train.sharding.local_world_size", lambda: 2)
    monkeypatch.setattr("xrec.train.sharding.least_of_workers", lambda memory: memory)
    monkeypatch.setattr("xrec.train.sharding.note", lambda text: None)
    config = config_of(tmp_path / "llm", zero_stage="auto")
    assert with_sharding(config, data_of(ROWS, ROWS)).deepspeed.zero_stage == 0
    monkeypatch.setattr("xrec.train.sharding.device_memory", lambda *_: 1000)
    with pytest.raises(ModelError, match=r"fits at no ZeRO stage(.|\n)*raise scaling.num_workers"):
        with_sharding(config, data_of(ROWS, ROWS))
