"""The plugin that vLLM loads in each of its processes, and the supported versions and models.

This module must import very little. On CPUs, vLLM 0.32 patches its kernels in all loaded modules,
and fails at llvmlite, which most of xrec imports. The models are imported later.
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
"""The Hugging Face architectures that support collaborative tokens in vLLM."""

PREFIX = "Collaborative"
"""The prefix of our classes' names, before the name of the architecture."""

_KNOWN_VERSIONS = re.compile(r"0\.(29|30|31|32)\.")


def register() -> None:
    """Register the models with vLLM. Calling this twice has no effect."""
    from vllm import ModelRegistry

    for family in FAMILIES:
        name = f"{PREFIX}{family}"
        ModelRegistry.register_model(name, f"xrec.generate.vllm.model:{name}")


def unknown_family(architectures: Sequence[str] | None) -> str | None:
    """Return why vLLM cannot run a model with users and items; None if it can.

    architectures: those in the model's config.json.
    """
    if architectures and len(architectures) == 1 and architectures[0] in FAMILIES:
        return None
    return f"its architecture is {architectures}; vLLM supports only {', '.join(FAMILIES)}"


def check_installed_vllm() -> None:
    """Raise ModelError unless xrec supports the installed version of vLLM.

    Call it before importing `xrec.generate.vllm.engine`, which imports internal modules of vLLM
    that other versions may not have. Raises ImportError if vLLM is not installed.
    """
    from vllm import __version__ as version

    if not _KNOWN_VERSIONS.match(version):
        raise ModelError(
            f"engine.kind=vllm: vLLM {version} is installed; expected 0.29 to 0.32; "
            f"run: {install_command('vllm')}, or set engine.kind=builtin",
            code="vllm_version",
            key="engine.kind",
            saw=version,
        )
