"""What each of vLLM's processes loads at its start: the name of the model and its `Attachment`.

This module must import very little. On CPUs vLLM 0.32 patches its kernels in all modules that are
loaded, and fails at llvmlite, which most of xrec imports. The model itself is imported later.
"""

from dataclasses import dataclass

from xrec.config.adapter import Injection

ARCHITECTURE = "CollaborativeLlamaForCausalLM"


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


def register() -> None:
    """Register the model with vLLM. Calling this twice has no effect."""
    from vllm import ModelRegistry

    ModelRegistry.register_model(ARCHITECTURE, f"xrec.generate.vllm.model:{ARCHITECTURE}")
