"""What vLLM is started with, its errors, what a token adds to its layers, and its versions.

vLLM need not be installed for these tests: where its modules are imported, they are a stand-in.
"""

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
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
GPUS = {0: (10, 80), 1: (72, 80), 2: (40, 80)}


@pytest.fixture
def vllm(monkeypatch):
    """A stand-in for vLLM that sees GPU 1 and GPU 2 in this order."""
    vllm = MagicMock()
    parts = ("exceptions", "inputs", "platforms", "sampling_params", "utils", "utils.import_utils")
    for name in ("vllm", *(f"vllm.{part}" for part in parts)):
        monkeypatch.setitem(sys.modules, name, vllm)
    vllm.current_platform.device_type = "cuda"
    vllm.current_platform.visible_device_id_to_physical_device_id = lambda place: place + 1
    vllm.current_platform.supported_dtypes = [torch.float16, torch.float32]
    vllm.import_pynvml.return_value = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda index: SimpleNamespace(
            free=GPUS[index][0], total=GPUS[index][1]
        ),
    )
    return vllm


@pytest.fixture
def load(vllm, monkeypatch):
    """Return a function that imports one of our modules with the stand-in, for this test only."""

    def load(name: str) -> ModuleType:
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
        return importlib.import_module(name)

    return load


@pytest.fixture
def arguments(load):
    return load("xrec.generate.vllm.arguments")


def started_with(
    arguments: ModuleType, stub: MagicMock, device: str = "cuda", **options: Any
) -> dict[str, Any]:
    options = {"gpu_memory_utilization": 0.5, **options}
    arguments.engine_arguments(
        Path("llm"),
        SimpleNamespace(architectures=["Qwen3ForCausalLM"]),
        "direct",
        EngineConfig(kind="vllm", max_rows=7, kv_cache_gib=1.0, vllm=options),
        dtype=torch.float16,
        device=torch.device(device),
    )
    return dict(stub.EngineArgs.call_args.kwargs)


@pytest.mark.parametrize(("num_gpus", "expected"), [(1, 0.45), (2, 0.25)])
def test_memory_is_the_share_free_on_the_fullest_gpu(arguments, vllm, num_gpus, expected):
    found = started_with(arguments, vllm, tensor_parallel_size=num_gpus)
    assert found["gpu_memory_utilization"] == pytest.approx(expected)
    assert not {"kv_cache_memory_bytes", "block_size"} & found.keys()


@pytest.mark.parametrize(
    "option", ["speculative_config", "enable_lora", "logits_processors", "generation_config"]
)
def test_options_that_would_break_texts_are_refused(arguments, vllm, option):
    with raises(ModelError, "option_forbidden", key="engine.vllm", saw=option):
        started_with(arguments, vllm, **{option: 1})


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


def test_buffer_holds_the_latest_step_and_zeros_at_one_address():
    buffer = InjectionBuffer([FusedProjection()], "projected", 6)
    address = buffer.values.data_ptr()
    for rows in ([0, 1, 2, 3, 4], [3, 1], None, [5], None, None, [0]):
        expected = torch.zeros(6, H)
        if rows is None:
            buffer.clear()
        else:
            vectors = torch.randn(len(rows), H)
            buffer.write(torch.tensor(rows), vectors)
            expected[rows] = vectors
        assert torch.equal(buffer.values, expected)
    assert buffer.values.data_ptr() == address
    assert not buffer.state_dict()  # nothing that a checkpoint must hold


@pytest.mark.parametrize("rule", ["projected", "direct", "none"])
def test_buffer_rows_are_added_to_input_or_output_of_each_layer(rule):
    torch.manual_seed(0)
    layers = [FusedProjection() for _ in range(2)]
    hidden, vectors = torch.randn(4, H), torch.randn(2, H)
    plain = [layer(hidden)[0] for layer in layers]
    buffer = InjectionBuffer(layers, rule, 9)
    buffer.write(torch.tensor([2, 0]), vectors)
    for layer, before in zip(layers, plain, strict=True):
        change = {
            "projected": vectors @ layer.weight.T,
            "direct": added(layer, vectors, "direct"),
            "none": torch.zeros(2, 36),
        }
        after, bias = layer(hidden)
        expected = before.index_add(0, torch.tensor([2, 0]), change[rule])
        torch.testing.assert_close(after, expected)
        assert bias is None
        assert set(layer.state_dict()) == {"weight", "bias"}
    buffer.clear()
    torch.testing.assert_close(layers[0](hidden)[0], plain[0])


def test_buffer_direct_of_a_model_with_a_wider_query_is_refused():
    layer = FusedProjection()
    layer.total_num_heads = 16
    with raises(ModelError, "query_width", key="model.injection", saw="direct"):
        InjectionBuffer([layer], "direct", 6)


@pytest.mark.parametrize("version", ["0.28.1", "0.3.0", "0.33.0rc1", "0.300.0", "1.30.0", ""])
def test_version_that_was_not_tested_is_refused_with_what_to_do(version, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__=version))
    with raises(ModelError, "vllm_version", key="engine.kind", saw=version):
        check_installed_vllm()


def test_plugin_imports_nothing_that_vllms_start_could_stumble_over():
    code = (
        "import sys, xrec.generate.vllm.plugin; "
        "print(sorted({'torch', 'torch_geometric', 'pandas', 'vllm'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
