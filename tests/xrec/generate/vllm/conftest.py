"""A vLLM that is a mock, for what needs neither its engine nor its import, which takes long."""

import sys
from unittest.mock import MagicMock

import pytest

INNER_MODULES = (
    *("exceptions", "inputs", "platforms", "sampling_params", "utils"),
    "utils.import_utils",
)


@pytest.fixture
def mocked_vllm(monkeypatch):
    """vLLM's modules are one mock; our modules that import them are loaded anew, and only here."""
    vllm = MagicMock(__version__="0.30.0")
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    for name in INNER_MODULES:
        monkeypatch.setitem(sys.modules, f"vllm.{name}", vllm)
    ours = [name for name in sys.modules if name.startswith("xrec.generate.vllm.")]
    for name in ours:
        monkeypatch.delitem(sys.modules, name)
    yield vllm
    for name in [name for name in sys.modules if name.startswith("xrec.generate.vllm.")]:
        del sys.modules[name]
