"""Which versions of vLLM are refused, and why; what its processes load at their start.

vLLM need not be installed for these tests.
"""

import subprocess
import sys

import pytest

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


def test_plugin_imports_nothing_that_vllms_start_could_stumble_over() -> None:
    code = (
        "import sys, xrec.generate.vllm.plugin; "
        "print(sorted({'torch', 'torch_geometric', 'pandas', 'vllm'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
