"""What vLLM is started with, its errors, what a token adds to its layers, and its versions.

vLLM need not be installed for these tests: where its modules are imported, they are a stand-in.
"""

import importlib
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor, nn

from tests.errors import raises
from xrec.config import EngineConfig
from xrec.errors import ModelError
from xrec.generate.vllm.injection import InjectionBuffer, added
from xrec.generate.vllm.plugin import check_installed_vllm

# Free and total GiB of the GPUs by their index.


@pytest.fixture
def arguments(monkeypatch):
    """Our module, imported with a stand-in for vLLM."""
    vllm = MagicMock()
    parts = ("exceptions", "inputs", "platforms", "sampling_params", "utils", "utils.import_utils")
    for name in ("vllm", *(f"vllm.{part}" for part in parts)):
        monkeypatch.setitem(sys.modules, name, vllm)
    name = "xrec.generate.vllm.arguments"
    monkeypatch.setitem(sys.modules, name, None)  # restored after the test
    del sys.modules[name]
    return importlib.import_module(name)


@pytest.mark.parametrize(
    "option", ["speculative_config", "enable_lora", "logits_processors", "generation_config"]
)
def test_options_that_would_break_texts_are_refused(arguments, option):
    config, given = EngineConfig(kind="vllm", vllm={option: 1}), MagicMock()
    with raises(ModelError, "option_forbidden", key="engine.vllm", saw=option):
        arguments.engine_arguments(given, given, "direct", config, dtype=given, device=given)


NUM_HEADS, HEAD_DIM, H = 8, 3, 24


def shape(num_key_value_heads: int, rank: int = 0, world_size: int = 1) -> dict[str, int]:
    """Return the attributes of vLLM's QKVParallelLinear."""
    return {
        "hidden_size": H,
        "head_size": HEAD_DIM,
        "total_num_heads": NUM_HEADS,
        "total_num_kv_heads": num_key_value_heads,
        "num_kv_heads": max(1, num_key_value_heads // world_size),
        "num_kv_head_replicas": max(1, world_size // num_key_value_heads),
        "tp_rank": rank,
        "tp_size": world_size,
    }


def head(vectors: Tensor, index: int) -> Tensor:
    return vectors[:, index * HEAD_DIM : (index + 1) * HEAD_DIM]


def folded_head(vectors: Tensor, index: int, num_key_value_heads: int) -> Tensor:
    group = NUM_HEADS // num_key_value_heads
    return sum(head(vectors, query) for query in range(index * group, (index + 1) * group)) / group


@pytest.mark.parametrize(
    ("num_key_value_heads", "world_size", "heads_of_ranks"),
    [
        (2, 1, [range(2)]),
        (4, 2, [(0, 1), (2, 3)]),
        (2, 8, [(0,), (0,), (0,), (0,), (1,), (1,), (1,), (1,)]),
        (1, 4, [(0,), (0,), (0,), (0,)]),
    ],
)
def test_added_direct_is_each_ranks_slice_of_qkv(num_key_value_heads, world_size, heads_of_ranks):
    adapted = torch.randn(5, H, generator=torch.Generator().manual_seed(0))
    num_queries = NUM_HEADS // world_size
    for rank, key_heads in enumerate(heads_of_ranks):
        part = SimpleNamespace(**shape(num_key_value_heads, rank, world_size))
        keys = [folded_head(adapted, index, num_key_value_heads) for index in key_heads]
        expected = torch.cat(
            [head(adapted, rank * num_queries + index) for index in range(num_queries)]
            + keys
            + keys,
            dim=1,
        )
        torch.testing.assert_close(added(part, adapted, "direct"), expected)


class FusedProjection(nn.Linear):
    """A layer that returns its output and its bias separately, as vLLM's linear layers do."""

    def __init__(self) -> None:
        super().__init__(H, 36)
        vars(self).update(shape(2))

    def forward(self, hidden: Tensor) -> tuple[Tensor, None]:
        return super().forward(hidden), None


@pytest.mark.parametrize("rule", ["projected", "direct", "none"])
def test_buffer_adds_the_rows_of_the_latest_step_to_input_or_output_of_each_layer(rule):
    torch.manual_seed(0)
    layers = [FusedProjection() for _ in range(2)]
    hidden = torch.randn(9, H)
    plain = [layer(hidden)[0] for layer in layers]
    buffer = InjectionBuffer(layers, rule, 9)
    address = buffer.values.data_ptr()
    for rows in ([0, 1, 2, 3, 8], [2, 0], [], [3], [], [0]):
        vectors = torch.randn(len(rows), H)
        if rows:
            buffer.write(torch.tensor(rows), vectors)
        else:
            buffer.clear()
        expected = torch.zeros(9, H)
        expected[rows] = vectors
        for layer, before in zip(layers, plain, strict=True):
            change = {
                "projected": expected @ layer.weight.T,
                "direct": added(layer, expected, "direct"),
                "none": torch.zeros(9, 36),
            }
            after, bias = layer(hidden)
            torch.testing.assert_close(after, before + change[rule])
            assert bias is None
            assert set(layer.state_dict()) == {"weight", "bias"}  # nothing for a checkpoint
    assert buffer.values.data_ptr() == address


@pytest.mark.parametrize("version", ["0.28.1", "0.3.0", "0.33.0rc1", "0.300.0", "1.30.0", ""])
def test_version_that_was_not_tested_is_refused_with_what_to_do(version, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__=version))
    with raises(ModelError, "vllm_version", key="engine.kind", saw=version):
        check_installed_vllm()
