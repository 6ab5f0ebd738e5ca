"""What each of vLLM's processes loads at its start, and which vLLM and models can be used.

A collaborative token is an id at or above the size of the model's vocabulary. From version 0.33 on
vLLM refuses such ids (`Renderer.validate_token_ids`: "Token id 410 is out of vocabulary"). The
parity tests passed with 0.30 and with 0.32, on CPUs. Older versions were not tried. The extra
`[vllm]` allows 0.30 only, because 0.31 and 0.32 need an older transformers than xrec's training.

This module must import very little. On CPUs vLLM 0.32 patches its kernels in all modules that are
loaded, and fails at llvmlite, which most of xrec imports. The models are imported later.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from xrec.config.adapter import Injection
from xrec.errors import ModelError

FAMILIES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""The architectures of Hugging Face that can have collaborative tokens in vLLM."""

PREFIX = "Collaborative"
"""What is put before the name of an architecture."""

TOKENIZER_MODE = "xrec"
"""The value of vLLM's `tokenizer_mode` that lets ids of users and items pass."""

_FIRST_KNOWN, _FIRST_REFUSED = (0, 30), (0, 33)


@dataclass(frozen=True)
class Attachment:
    """What vLLM passes to the model as `additional_config`.

    `folder` holds adapter and vectors (xrec.generate.vllm.vectors).
    """

    folder: str
    injection: Injection
    adapter_config: str
    """The fingerprint of `adapter_config.json`."""

    def compute_hash(self) -> str:
        """The part of the key of vLLM's cache of compiled graphs that depends on the adapter.

        The path of the folder is not part of it.
        """
        return f"xrec-{self.injection}-{self.adapter_config}"


def register() -> None:
    """Register models and tokenizer with vLLM. Calling this twice has no effect."""
    from vllm import ModelRegistry
    from vllm.tokenizers.registry import TokenizerRegistry

    for family in FAMILIES:
        name = f"{PREFIX}{family}"
        ModelRegistry.register_model(name, f"xrec.generate.vllm.model:{name}")
    if TOKENIZER_MODE not in TokenizerRegistry.tokenizers:
        TokenizerRegistry.register(
            TOKENIZER_MODE, "xrec.generate.vllm.tokenizer", "CollaborativeTokenizer"
        )


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
    """Raise ModelError as `check_vllm_version` does for the vLLM that is installed.

    Call it before `xrec.generate.vllm.engine` is imported: its imports are inner modules of vLLM,
    which other versions have elsewhere. Raises ImportError if vLLM is not installed.
    """
    from vllm import __version__

    check_vllm_version(__version__)


def check_vllm_version(version: str) -> None:
    """Raise ModelError, with the reason, unless xrec can generate with this version of vLLM."""
    parts = version.split(".")
    is_known = len(parts) > 1 and parts[0].isdecimal() and parts[1].isdecimal()
    numbers = (int(parts[0]), int(parts[1])) if is_known else (0, 0)
    if _FIRST_KNOWN <= numbers < _FIRST_REFUSED:
        return
    reason = (
        "vLLM from 0.33 on refuses token ids outside the model's vocabulary, and users and items "
        "are such ids"
        if numbers >= _FIRST_REFUSED
        else "xrec was tested with 0.30 to 0.32"
    )
    raise ModelError(
        f"engine.kind vllm: vLLM {version} is installed; {reason}; "
        "run: pip install 'xrec[vllm]', or set engine.kind=builtin"
    )
