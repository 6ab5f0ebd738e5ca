"""Which engine `engine.kind: auto` takes, and what is recorded; vLLM need not be installed."""

import json
import logging
import re
from pathlib import Path

import pytest
import torch

from xrec.config.engine import BuiltinEngineConfig, EngineConfig
from xrec.config.llm import LLMConfig
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


def vllm_that(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
    """Let the look at the installed vLLM raise `error`, or find a version that is known."""

    def check() -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(choice, "check_installed_vllm", check)


def test_auto_on_a_gpu_with_vllm_takes_vllm(
    qwen: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vllm_that(monkeypatch)
    caplog.set_level(logging.INFO, "xrec")
    assert choose_engine(EngineConfig(), GPU, qwen) == "vllm"
    assert "engine: vllm, because there are a GPU and a vLLM" in caplog.text


@pytest.mark.parametrize(
    ("device", "config", "error", "reason"),
    [
        (CPU, EngineConfig(), None, "texts are made on the cpu"),
        (GPU, EngineConfig(), ImportError("No module named 'vllm'"), "No module named 'vllm'"),
        (GPU, EngineConfig(), ModelError("vLLM 0.33 refuses"), "vLLM 0.33 refuses"),
    ],
)
def test_auto_without_gpu_or_vllm_takes_ours_and_says_why(
    qwen: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    device: torch.device,
    config: EngineConfig,
    error: Exception | None,
    reason: str,
) -> None:
    vllm_that(monkeypatch, error)
    caplog.set_level(logging.INFO, "xrec")
    assert choose_engine(config, device, qwen) == "builtin"
    assert re.search(rf"engine: builtin, because .*{reason}", caplog.text)


def test_auto_with_a_family_that_vllm_cannot_inject_into_takes_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vllm_that(monkeypatch)
    caplog.set_level(logging.INFO, "xrec")
    gemma = model(tmp_path, "gemma", "GemmaForCausalLM")
    assert choose_engine(EngineConfig(), GPU, gemma) == "builtin"
    assert "its architecture is ['GemmaForCausalLM']; with vLLM only Llama" in caplog.text


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


def test_computation_of_auto_on_a_cpu_is_float32_by_the_builtin_engine() -> None:
    found = computation(AUTO, "cpu", EngineConfig(), StorageConfig())
    assert found == {"dtype": "float32", "device": "cpu", "engine": "builtin"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_computation_of_auto_without_a_gpu_is_on_the_cpu() -> None:
    found = computation(AUTO, "auto", BuiltinEngineConfig(), StorageConfig())
    assert (found["device"], found["dtype"]) == ("cpu", "float32")


def test_settled_computation_equals_the_one_of_this_machine_and_is_none_with_auto() -> None:
    llm = LLMConfig(model="none", dtype="bfloat16")
    found = settled_computation(llm, "cpu", BuiltinEngineConfig())
    assert found == computation(llm, "cpu", BuiltinEngineConfig(), StorageConfig())
    assert settled_computation(AUTO, "cpu", BuiltinEngineConfig()) is None
    assert settled_computation(llm, "auto", BuiltinEngineConfig()) is None
    assert settled_computation(llm, "cpu", EngineConfig()) is None
