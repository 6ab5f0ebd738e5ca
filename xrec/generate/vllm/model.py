"""vLLM's decoders with collaborative tokens: in the input embedding and in each layer.

There is one class for each family, made of vLLM's own class and `_Collaborative`. Hooks on each
layer's `qkv_proj` add the rows of a buffer (xrec.generate.vllm.injection), so that vLLM's compiled
and captured graphs read them like any weight. What enters the first layer is made before and
outside of these graphs: by `CollaborativeModelState` under vLLM's Model Runner V2, which GPUs use,
and otherwise, on CPUs, by `forward`. The output layer knows the text vocabulary only, so a user or
an item can never be sampled.

vLLM finds a class by its name: `CollaborativeQwen3ForCausalLM` is made when vLLM asks for it.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from vllm import ModelRegistry
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.platforms import current_platform
from vllm.sequence import IntermediateTensors
from vllm.utils.torch_utils import set_default_torch_dtype

from xrec.errors import ModelError
from xrec.generate.vllm.injection import InjectionBuffer, Projection, install_hooks
from xrec.generate.vllm.plugin import FAMILIES, PREFIX, Attachment
from xrec.generate.vllm.vectors import load_vectors

if TYPE_CHECKING:
    from xrec.generate.vllm.model_state import CollaborativeModelState


class _Collaborative:
    """What is added to a family's class of vLLM: the users and items of an `Attachment`.

    Every tensor-parallel rank has all adapters and vectors. Raises ModelError for settings of vLLM
    with which texts would be wrong.
    """

    # The later stages of a pipeline would not get what tokens add in the layers.
    supports_pp = False

    model: Any
    named_parameters: Any

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        _check_config(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        attachment: Attachment = vllm_config.additional_config
        weight: Tensor = self.model.embed_tokens.weight
        with set_default_torch_dtype(torch.float32), torch.device("cpu"):
            self.vectors = load_vectors(attachment, self.model.config.vocab_size)
        self.vectors.to(weight.device)
        projection = _projection(vllm_config)
        self.injection = InjectionBuffer(
            projection,
            attachment.injection,
            vllm_config.scheduler_config.max_num_batched_tokens,
        )
        install_hooks(
            [layer.self_attn.qkv_proj for layer in self.model.layers],
            self.injection.values,
            attachment.injection,
        )

    @staticmethod
    def get_model_state_cls() -> "type[CollaborativeModelState]":
        """The part of Model Runner V2 that makes the input vectors of a step."""
        from xrec.generate.vllm.model_state import CollaborativeModelState

        return CollaborativeModelState

    def embed_text(self, input_ids: Tensor) -> Tensor:
        """The words' vectors (N, H) of token ids (N,).

        Where an id is a collaborative token the row is that of the last word, to be overwritten.
        """
        embeds: Tensor = self.model.embed_input_ids(
            input_ids.clamp(max=self.vectors.num_text_tokens - 1)
        )
        return embeds

    def embed_step(self, input_ids: Tensor) -> Tensor:
        """The input vectors (N, H) of the token ids (N,) of one step; writes to `self.injection`.

        Adapters run for every token, also for text, so that nothing depends on what the ids are.
        """
        is_collaborative = self.vectors.is_collaborative(input_ids)[:, None]
        adapted = self.vectors(input_ids)
        self.injection.write(adapted * is_collaborative)
        embeds = self.embed_text(input_ids)
        return torch.where(is_collaborative, adapted.to(embeds.dtype), embeds)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor | IntermediateTensors:
        """The hidden states (N, H) for `inputs_embeds` (N, H) at `positions` (N,).

        Without `inputs_embeds` they are those of `input_ids` (N,).
        """
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.embed_step(input_ids)
        hidden: Tensor | IntermediateTensors = super().forward(  # type: ignore[misc]
            None, positions, intermediate_tensors, inputs_embeds
        )
        return hidden

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the base model's weights; returns the names of all weights that are set now.

        The adapters were loaded before. vLLM would report them as missing if they were left out.
        """
        adapters = {f"vectors.{name}" for name, _ in self.vectors.named_parameters()}
        loaded: set[str] = super().load_weights(weights)  # type: ignore[misc]
        return loaded | adapters


def __getattr__(name: str) -> type[nn.Module]:
    """The class of a family, as vLLM's lazy registration asks for it."""
    base = name.removeprefix(PREFIX)
    if base == name or base not in FAMILIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    family = ModelRegistry.models[base].load_model_cls()
    made = type(name, (_Collaborative, family), {"__module__": __name__, "__doc__": family.__doc__})
    globals()[name] = made
    return made


def _projection(vllm_config: VllmConfig) -> Projection:
    config = vllm_config.model_config.hf_config
    return Projection(
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None)
        or config.hidden_size // config.num_attention_heads,
        rank=get_tensor_model_parallel_rank(),
        world_size=get_tensor_model_parallel_world_size(),
    )


def _check_config(config: VllmConfig) -> None:
    """Raise ModelError where users and items would be waited for."""
    assert isinstance(config.additional_config, Attachment)
    if current_platform.device_type != "cpu" and not config.use_v2_model_runner:
        raise ModelError(
            "vLLM with users and items needs its Model Runner V2 on a GPU, and this run has V1: "
            "there the ids of a step are on the device only, and each step would wait for them; "
            "unset VLLM_USE_V2_MODEL_RUNNER, and see in vLLM's log which setting made it choose V1"
        )
