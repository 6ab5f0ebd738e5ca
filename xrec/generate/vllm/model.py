"""vLLM's decoders with collaborative tokens: in the input embedding and in each layer.

There is one class per family, which combines vLLM's own class with `_Collaborative`. In each step,
outside of its compiled and captured graphs, vLLM calls `embed_input_ids` with the vectors of the
step's users and items. They replace the embeddings of their tokens, and are written to a buffer
(xrec.generate.vllm.injection), whose rows hooks on each layer's `qkv_proj` add. The graphs read the
buffer like any weight. The positions of users and items are known on the host, so nothing waits for
the device. The output layer only has the text vocabulary.

Some names used here are not part of vLLM's documented interface: `qkv_proj`, `self_attn`, `layers`
and `model`, because vLLM offers no way to change the input of a layer, and `ModelRegistry.models`,
which has the classes by name. A class such as `CollaborativeQwen3ForCausalLM` is created when vLLM
imports it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from vllm import ModelRegistry
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import SupportsMultiModal
from vllm.multimodal import MULTIMODAL_REGISTRY

from xrec.generate.vllm.injection import InjectionBuffer
from xrec.generate.vllm.modality import Info, NoDummies, Processor
from xrec.generate.vllm.plugin import FAMILIES, PREFIX


class _Collaborative:
    """The mixin for vLLM's class of a family; the rule is in vLLM's `additional_config`."""

    # The later stages of a pipeline would not get the vectors that tokens add in the layers.
    supports_pp = False

    model: Any

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self.injection = InjectionBuffer(
            [layer.self_attn.qkv_proj for layer in self.model.layers],
            vllm_config.additional_config["injection"],
            vllm_config.scheduler_config.max_num_batched_tokens,
        )

    def embed_multimodal(self, *, vectors: Tensor) -> Tensor:
        """Return what vLLM stores for the items `vectors` (N, H) while in use, (N, 1, H)."""
        return vectors[:, None]

    def embed_input_ids(
        self,
        input_ids: Tensor,
        multimodal_embeddings: Sequence[Tensor] | None = None,
        *,
        is_multimodal: Tensor | None = None,
    ) -> Tensor:
        """Return the input vectors (N, H) for the token IDs (N,) of a step; set `self.injection`.

        The `multimodal_embeddings`, each (n, H), belong to the positions where `is_multimodal`
        (N,), which is in host memory, is true.
        """
        embeds: Tensor = self.model.embed_input_ids(input_ids)
        if not multimodal_embeddings:
            self.injection.clear()
            return embeds
        assert is_multimodal is not None
        rows = is_multimodal.nonzero()[:, 0].to(embeds.device, non_blocking=True)
        vectors = torch.cat(tuple(multimodal_embeddings)).to(embeds.dtype)
        self.injection.write(rows, vectors)
        return embeds.index_copy(0, rows, vectors)


def __getattr__(name: str) -> type[nn.Module]:
    """Return the class of a family; vLLM imports it by name."""
    base = name.removeprefix(PREFIX)
    if base == name or base not in FAMILIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    family = ModelRegistry.models[base].load_model_cls()
    bases = (_Collaborative, family, SupportsMultiModal)
    made = type(name, bases, {"__module__": __name__, "__doc__": family.__doc__})
    register = MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=NoDummies)
    globals()[name] = register(made)
    return made
