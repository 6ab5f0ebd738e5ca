"""What each of vLLM's processes loads at its start: the names of the models and the `Attachment`.

This module must import very little. On CPUs vLLM 0.32 patches its kernels in all modules that are
loaded, and fails at llvmlite, which most of xrec imports. The models are imported later.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from xrec.config.adapter import Injection

FAMILIES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""The architectures of Hugging Face that can have collaborative tokens in vLLM."""

PREFIX = "Collaborative"
"""What is put before the name of an architecture."""

TOKENIZER_MODE = "xrec"
"""The value of vLLM's `tokenizer_mode` that lets ids of users and items pass."""


@dataclass(frozen=True)
class Attachment:
    """What vLLM passes to the model as `additional_config`.

    `folder` holds adapter and vectors (xrec.generate.vllm.attachment).
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
