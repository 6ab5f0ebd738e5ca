"""Which engine `engine.kind: auto` takes, and what is recorded; vLLM need not be installed."""

import json
import logging
import re
from pathlib import Path

import pytest
import torch

from xrec.config.llm import BuiltinEngineConfig, EngineConfig, LLMConfig
from xrec.config.shared import StorageConfig
from xrec.errors import ModelError
from xrec.generate import choice
from xrec.generate.choice import choose_engine, computation, settled_computation

AUTO = LLMConfig(model="none")
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    return model(tmp_path, "qwen3", "Qwen3ForCausalLM")


def model(folder: Path, model_type: str, architecture: str) -> Path:
    config = {"model_type": model_type, "architectures": [architecture]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


QWEN, GEMMA = ("qwen3", "Qwen3ForCausalLM"), ("gemma", "GemmaForCausalLM")


@pytest.mark.parametrize(
    ("device", "family", "error", "kind", "reason"),
    [
        (GPU, QWEN, None, "vllm", "there are a GPU and a vLLM"),
        (CPU, QWEN, None, "builtin", "texts are made on the cpu"),
        (GPU, QWEN, ImportError("No module named 'vllm'"), "builtin", "No module named 'vllm'"),
        (GPU, QWEN, ModelError("vLLM 0.33 refuses"), "builtin", "vLLM 0.33 refuses"),
        (GPU, GEMMA, None, "builtin", "its architecture is .'GemmaForCausalLM'.; with vLLM only"),
    ],
)
def test_auto_takes_vllm_on_a_gpu_if_it_can_and_says_why_not(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    device: torch.device,
    family: tuple[str, str],
    error: Exception | None,
    kind: str,
    reason: str,
) -> None:
    """`error` is what a look at the installed vLLM raises."""

    def check() -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(choice, "check_installed_vllm", check)
    caplog.set_level(logging.INFO, "xrec")
    assert choose_engine(EngineConfig(), device, model(tmp_path, *family)) == kind
    assert re.search(f"engine: {kind}, because .*{reason}", caplog.text)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (EngineConfig(tensor_parallel_size=2), "engine.tensor_parallel_size=2"),
        (EngineConfig(vllm_options={"seed": 1}), "engine.vllm_options"),
    ],
)
def test_auto_with_what_only_vllm_has_raises_where_it_cannot_be_taken(
    qwen: Path, config: EngineConfig, name: str
) -> None:
    with pytest.raises(ModelError, match=rf"{name} needs vLLM.*made on the cpu"):
        choose_engine(config, CPU, qwen)


@pytest.mark.parametrize("kind", ["builtin", "vllm"])
def test_an_engine_that_is_named_is_taken(qwen: Path, kind: choice.EngineKind) -> None:
    assert choose_engine(EngineConfig(kind=kind), CPU, qwen) == kind


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_computation_of_auto_without_a_gpu_is_float32_on_the_cpu_by_the_builtin_engine() -> None:
    for config in (EngineConfig(), BuiltinEngineConfig()):
        found = computation(AUTO, "auto", config, StorageConfig())
        assert found == {"dtype": "float32", "device": "cpu", "engine": "builtin"}


def test_settled_computation_equals_the_one_of_this_machine_and_is_none_with_auto() -> None:
    llm = LLMConfig(model="none", dtype="bfloat16")
    found = settled_computation(llm, "cpu", BuiltinEngineConfig())
    assert found == computation(llm, "cpu", BuiltinEngineConfig(), StorageConfig())
    assert settled_computation(AUTO, "cpu", BuiltinEngineConfig()) is None
    assert settled_computation(llm, "auto", BuiltinEngineConfig()) is None
    assert settled_computation(llm, "cpu", EngineConfig()) is None
