"""Which versions of vLLM are refused, and why; what its processes load at their start.

vLLM need not be installed for these tests.
"""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from xrec.errors import ModelError
from xrec.generate.vllm.plugin import check_installed_vllm


@pytest.mark.parametrize(
    "version", ["0.29.0", "0.30.0", "0.30.1+cpu", "0.31.0", "0.32.0", "0.32.1.dev3+g12"]
)
def test_version_that_is_known_passes(version, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__=version))
    check_installed_vllm()


@pytest.mark.parametrize(
    "version", ["0.28.1", "0.9.2", "0.3.0", "0.33.0", "0.33.0rc1", "0.300.0", "1.30.0", "dev", ""]
)
def test_version_that_was_not_tested_is_refused_with_what_to_do(version, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__=version))
    reason = (
        rf"vLLM {version} is installed; .* 0\.29 to 0\.32; run: pip install 'vllm<0\.33,>=0\.29'"
    )
    with pytest.raises(ModelError, match=reason):
        check_installed_vllm()


def test_plugin_imports_nothing_that_vllms_start_could_stumble_over():
    code = (
        "import sys, xrec.generate.vllm.plugin; "
        "print(sorted({'torch', 'torch_geometric', 'pandas', 'vllm'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
