"""What each of vLLM's processes loads as it starts: the model's architecture by name, and what the engine tells the model.

It imports next to nothing: vLLM 0.32 patches its CPU kernels in all modules there are, and fails at llvmlite, which most of
xrec brings in. The model itself is imported later, when it is loaded.
"""

from dataclasses import dataclass

from xrec.config.adapter import Injection

ARCHITECTURE = "CollaborativeLlamaForCausalLM"


@dataclass(frozen=True)
class Attachment:
    """vLLM's `additional_config`: the folder of adapter and table (xrec.generate.vllm.attachment), the rule of injection."""

    folder: str
    injection: Injection
    adapter_config: str
    """Fingerprint of `adapter_config.json`."""

    def compute_hash(self) -> str:
        """The salt of vLLM's cache of compiled graphs; where the folder lies is no part of it."""
        return f"xrec-{self.injection}-{self.adapter_config}"


def register() -> None:
    """Register the model with vLLM; again is harmless."""
    from vllm import ModelRegistry

    ModelRegistry.register_model(ARCHITECTURE, f"xrec.generate.vllm.model:{ARCHITECTURE}")
