"""Which versions of vLLM are refused, and why; what its processes load at their start.

vLLM need not be installed for these tests.
"""

import importlib
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch

from tests.toy import toy_tokenizer
from tests.xrec.generate.vllm.vllm_town import make_adapter, make_graph
from xrec.config.llm import EngineConfig
from xrec.errors import ModelError
from xrec.generate.vllm.plugin import check_vllm_version


@pytest.mark.parametrize("version", ["0.30.0", "0.30.1+cpu", "0.31.0", "0.32.0", "0.32.1.dev3+g12"])
def test_version_that_is_known_passes(version: str) -> None:
    check_vllm_version(version)


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        *(
            (version, r"0\.33 on refuses token ids outside the model's vocabulary, and users and")
            for version in ("0.33.0", "0.33.0rc1", "0.34.2+cpu", "0.100.0", "1.0.0")
        ),
        *(
            (version, r"xrec was tested with 0\.30 to 0\.32; run: pip install 'xrec\[vllm\]'")
            for version in ("0.29.0", "0.9.2", "dev", "0", "")
        ),
    ],
)
def test_version_that_cannot_be_used_is_refused_with_the_reason(version: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        check_vllm_version(version)


def test_engine_checks_the_version_of_the_installed_vllm_before_it_starts(
    mocked_vllm: MagicMock, tmp_path: Path
) -> None:
    mocked_vllm.__version__ = "0.33.0"
    engine = importlib.import_module("xrec.generate.vllm.engine")
    graph = make_graph(tmp_path / "graph")
    with pytest.raises(ModelError, match=r"vLLM 0\.33\.0 is installed"):
        engine.VllmEngine(
            tmp_path / "llm",
            toy_tokenizer(),
            make_adapter("direct", graph),
            graph,
            EngineConfig(kind="vllm"),
            dtype="float32",
            device=torch.device("cpu"),
        )
    assert not mocked_vllm.LLMEngine.from_engine_args.called


def test_plugin_imports_nothing_that_vllms_start_could_stumble_over() -> None:
    code = (
        "import sys, xrec.generate.vllm.plugin; "
        "print(sorted({'torch', 'torch_geometric', 'pandas', 'vllm'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
