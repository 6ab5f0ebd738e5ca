"""vLLM's Llama with collaborative tokens: in the input embedding and in each layer.

With `enable_prompt_embeds`, vLLM's runner calls `embed_input_ids` with all token ids of a step,
before and outside of the compiled model. There, ids above the vocabulary go through the graph's
vectors and the adapters, and what the tokens add in the layers is written into a buffer that the
compiled layers read. The output layer knows the text vocabulary only, so a user or item can never
be sampled.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from vllm.compilation.decorators import support_torch_compile
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.model_executor.models.llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaModel,
)
from vllm.sequence import IntermediateTensors
from vllm.utils.torch_utils import set_default_torch_dtype

from xrec.config.adapter import Injection
from xrec.generate.vllm.attachment import load_embedding
from xrec.generate.vllm.injection import InjectionBuffer, Projection
from xrec.generate.vllm.plugin import Attachment


class InjectedAttention(LlamaAttention):
    """Llama's attention, which adds `injection` (N, width) at the place that its rule names."""

    injection_rule: Injection

    def forward(self, positions: Tensor, hidden_states: Tensor, injection: Tensor) -> Tensor:
        """The attention's output (N, H) for hidden states (N, H) at `positions` (N,).

        It does what the base class does, and the addition of the rule.
        """
        if self.injection_rule == "projected":
            hidden_states = hidden_states + injection
        qkv, _ = self.qkv_proj(hidden_states)
        if self.injection_rule == "direct":
            qkv = qkv + injection
        query, key, value = qkv.split([self.q_size, self.kv_size, self.kv_size], dim=-1)
        query, key = self.rotary_emb(positions, query, key)
        output, _ = self.o_proj(self.attn(query, key, value))
        return output


class InjectedDecoderLayer(LlamaDecoderLayer):
    """Llama's layer, which passes `injection` on to its attention."""

    def __init__(self, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__(vllm_config, prefix, attn_layer_type=InjectedAttention)
        self.self_attn.injection_rule = vllm_config.additional_config.injection

    def forward(
        self, positions: Tensor, hidden_states: Tensor, residual: Tensor | None, injection: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The layer's output and residual, as in the base class.

        vLLM's norms add the residual to their input, and return the norm and the sum.
        """
        if residual is None:
            residual, hidden_states = hidden_states, self.input_layernorm(hidden_states)
        else:
            hidden_states, residual = self.input_layernorm(hidden_states, residual)
        hidden_states = self.self_attn(
            positions=positions, hidden_states=hidden_states, injection=injection
        )
        hidden_states, residual = self.post_attention_layernorm(hidden_states, residual)
        return self.mlp(hidden_states), residual


@support_torch_compile(
    dynamic_arg_dims={
        name: {0: "b"}
        for name in ("input_ids", "positions", "intermediate_tensors", "inputs_embeds", "injection")
    }
)
class InjectedLlamaModel(LlamaModel):
    """Llama's layers, compiled with `injection` as an input.

    The input is never None and always at the same address.
    """

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None,
        inputs_embeds: Tensor | None,
        injection: Tensor,
    ) -> Tensor | IntermediateTensors | tuple[Tensor, list[Tensor]]:
        """The hidden states (N, H) for `inputs_embeds` (N, H) and `injection` (N, width)."""
        return super().forward(
            input_ids, positions, intermediate_tensors, inputs_embeds, injection=injection
        )


class CollaborativeLlamaForCausalLM(LlamaForCausalLM):
    """A Llama with the users and items of an `Attachment`.

    Every tensor-parallel rank has all adapters and vectors.
    """

    # Pipeline parallelism is not supported: embed_input_ids runs on the first stage only, and the
    # later stages would not get the injection.
    supports_pp = False

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=InjectedDecoderLayer)
        attachment: Attachment = vllm_config.additional_config
        self.rule = attachment.injection
        self.projection = _projection(vllm_config)
        device = self.model.embed_tokens.weight.device
        with set_default_torch_dtype(torch.float32), torch.device("cpu"):
            self.collaborative = load_embedding(attachment, self.model.embed_tokens)
        self.collaborative.to(device)
        self.injection = InjectionBuffer(
            vllm_config.scheduler_config.max_num_batched_tokens, self.projection.width(self.rule)
        )

    def _init_model(
        self,
        vllm_config: VllmConfig,
        prefix: str = "",
        layer_type: type[nn.Module] = InjectedDecoderLayer,
    ) -> LlamaModel:
        return InjectedLlamaModel(vllm_config=vllm_config, prefix=prefix, layer_type=layer_type)

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """The input vectors (N, H) of the token ids (N,) of one step.

        What the tokens add in the layers is written to `self.injection`.
        """
        embeds: Tensor = self.collaborative(input_ids)
        adapted = self.collaborative.injection
        self.injection.write(None if adapted is None else self.projection.added(adapted, self.rule))
        return embeds

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor | IntermediateTensors:
        """The hidden states (N, H) for `inputs_embeds` (N, H) at `positions` (N,)."""
        return self.model(
            input_ids,
            positions,
            intermediate_tensors,
            inputs_embeds,
            self.injection.values[: positions.shape[-1]],
        )

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the base model's weights; returns the names of all weights that are set now.

        The adapters were loaded before. vLLM would report them as missing if they were left out.
        """
        adapters = {f"collaborative.{name}" for name, _ in self.collaborative.named_parameters()}
        return super().load_weights(weights) | adapters


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
