"""vLLM's decoders with collaborative tokens: in the input embedding and in each layer.

There is one class for each family, made of vLLM's own class and `_Collaborative`. vLLM calls
`embed_input_ids` in each step, before and outside of its compiled and captured graphs, with the
vectors of the step's users and items. They replace the words' vectors there, and are written into a
buffer (xrec.generate.vllm.injection) of which hooks on each layer's `qkv_proj` add the rows. The
graphs read the buffer like any weight. The places of users and items are known on the host, so
nothing waits for the device. The output layer knows the text vocabulary only.

These names are not of vLLM's documented interface: `qkv_proj`, `self_attn`, `layers` and `model` of
its classes, since vLLM has no way to change what enters a layer, and `ModelRegistry.models`, which
has the classes by name. Ours are made when vLLM asks for one, as `CollaborativeQwen3ForCausalLM`.
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
    """What is added to a family's class of vLLM; the rule is in vLLM's `additional_config`."""

    # The later stages of a pipeline would not get what tokens add in the layers.
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
        """What vLLM keeps of the items `vectors` (N, H) while they are in use, (N, 1, H)."""
        return vectors[:, None]

    def embed_input_ids(
        self,
        input_ids: Tensor,
        multimodal_embeddings: Sequence[Tensor] | None = None,
        *,
        is_multimodal: Tensor | None = None,
    ) -> Tensor:
        """The input vectors (N, H) of the token ids (N,) of one step; sets `self.injection`.

        The `multimodal_embeddings`, each (n, H), are those of the places `is_multimodal` (N,),
        which is in the host's memory.
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
    """The class of a family, as vLLM's lazy registration asks for it."""
    base = name.removeprefix(PREFIX)
    if base == name or base not in FAMILIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    family = ModelRegistry.models[base].load_model_cls()
    bases = (_Collaborative, family, SupportsMultiModal)
    made = type(name, bases, {"__module__": __name__, "__doc__": family.__doc__})
    register = MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=NoDummies)
    globals()[name] = register(made)
    return made
