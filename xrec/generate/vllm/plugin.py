"""What each of vLLM's processes loads at its start, and which vLLM and models can be used.

This module must import very little. On CPUs vLLM 0.32 patches its kernels in all modules that are
loaded, and fails at llvmlite, which most of xrec imports. The models are imported later.
"""

import re
from collections.abc import Sequence

from xrec.errors import ModelError, install_command

FAMILIES = (
    "Gemma3ForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
"""The architectures of Hugging Face that can have collaborative tokens in vLLM."""

PREFIX = "Collaborative"
"""What is put before the name of an architecture."""

_KNOWN_VERSIONS = re.compile(r"0\.(29|30|31|32)\.")


def register() -> None:
    """Register the models with vLLM. Calling this twice has no effect."""
    from vllm import ModelRegistry

    for family in FAMILIES:
        name = f"{PREFIX}{family}"
        ModelRegistry.register_model(name, f"xrec.generate.vllm.model:{name}")


def unknown_family(architectures: Sequence[str] | None) -> str | None:
    """Why vLLM cannot run a model of these `architectures` with users and items.

    They are those of its config.json. Returns None if it can.
    """
    if architectures and len(architectures) == 1 and architectures[0] in FAMILIES:
        return None
    return (
        f"its architecture is {architectures}; "
        f"with vLLM only {', '.join(FAMILIES)} have users and items"
    )


def check_installed_vllm() -> None:
    """Raise ModelError, with the reason, unless xrec can generate with the installed vLLM.

    Call it before `xrec.generate.vllm.engine` is imported: its imports are inner modules of vLLM,
    which other versions have elsewhere. Raises ImportError if vLLM is not installed.
    """
    from vllm import __version__ as version

    if not _KNOWN_VERSIONS.match(version):
        raise ModelError(
            f"engine.kind vllm: vLLM {version} is installed; xrec was tested with 0.29 to 0.32; "
            f"run: {install_command('vllm')}, or set engine.kind=builtin",
            code="vllm_version",
            key="engine.kind",
            saw=version,
        )
