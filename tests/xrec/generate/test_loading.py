"""Which engine `engine.kind: auto` takes; vLLM need not be installed."""

import json
import logging
import re
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from xrec.config.llm import EngineConfig
from xrec.errors import ModelError
from xrec.generate import loading
from xrec.generate.loading import choose_engine

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def qwen(tmp_path):
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
    tmp_path, monkeypatch, caplog, device, family, error, kind, reason
):
    """`error` is what a look at the installed vLLM raises."""
    monkeypatch.setattr(loading, "check_installed_vllm", Mock(side_effect=error))
    caplog.set_level(logging.INFO, "xrec")
    assert choose_engine(EngineConfig(), device, model(tmp_path, *family)) == kind
    assert re.search(f"engine: {kind}, because .*{reason}", caplog.text)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (EngineConfig(tensor_parallel_size=2), "engine.tensor_parallel_size = 2"),
        (EngineConfig(vllm_options={"seed": 1}), "engine.vllm_options = .*"),
    ],
)
def test_auto_with_what_only_vllm_has_raises_where_it_cannot_be_taken(qwen, config, name):
    with pytest.raises(ModelError, match=rf"{name} needs vLLM.*made on the cpu"):
        choose_engine(config, CPU, qwen)


@pytest.mark.parametrize("kind", ["builtin", "vllm"])
def test_an_engine_that_is_named_is_taken(qwen, kind):
    assert choose_engine(EngineConfig(kind=kind), CPU, qwen) == kind
