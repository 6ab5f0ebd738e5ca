"""The decoder of each family, written out from its equations; it runs no transformers code.

It takes the weights of a transformers model and computes, in every layer:

h = norm(x);  q, k, v = W_q h, W_k h, W_v h (+ bias), plus what the injection adds;
q and k are normed per head (Qwen3, Gemma 3);
attention: softmax(cap(s * rotary(q) rotary(k)^T)) v over the causal window;
then the family's MLP and residuals.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.decoders import HEAD_DIM, WINDOW
from tests.toy import NUM_HEADS
from xrec.config.adapter import Injection


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    return x * torch.sigmoid(x)


def gelu(x: Tensor) -> Tensor:
    """The tanh approximation (arXiv 1606.08415)."""
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def rms_norm(x: Tensor, norm: nn.Module) -> Tensor:
    """Root mean square norm (arXiv 1910.07467)."""
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight


def rms_norm_around_one(x: Tensor, norm: nn.Module) -> Tensor:
    """Gemma's norm: the stored weight is the factor minus one."""
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + norm.weight)


def layer_norm(x: Tensor, norm: nn.Module) -> Tensor:
    """Layer norm (arXiv 1607.06450)."""
    centered = x - x.mean(-1, keepdim=True)
    return (
        centered / (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
        + norm.bias
    )


@dataclass(frozen=True)
class Anatomy:
    """How a family differs from Llama; settings that differ by layer have one value per layer."""

    norm: Callable[[Tensor, nn.Module], Tensor] = rms_norm
    activation: Callable[[Tensor], Tensor] = silu
    residual: Literal["sequential", "sandwich", "parallel"] = "sequential"
    embedding_factor: float = 1.0
    rotary_share: float = 1.0
    rotary_bases: tuple[float, float] = (10_000.0, 10_000.0)
    windows: tuple[int | None, int | None] = (None, None)
    score_factor: float = HEAD_DIM**-0.5
    score_cap: float | None = None
    logit_cap: float | None = None


ANATOMIES = {
    "llama": Anatomy(),
    "mistral": Anatomy(windows=(WINDOW, WINDOW)),
    "qwen2": Anatomy(windows=(WINDOW, None)),
    "qwen3": Anatomy(),
    "gemma": Anatomy(norm=rms_norm_around_one, activation=gelu, embedding_factor=32**0.5),
    "gemma2": Anatomy(
        norm=rms_norm_around_one,
        activation=gelu,
        residual="sandwich",
        embedding_factor=32**0.5,
        windows=(WINDOW, None),
        score_factor=5**-0.5,
        score_cap=2.0,
        logit_cap=3.0,
    ),
    "gemma3": Anatomy(
        norm=rms_norm_around_one,
        activation=gelu,
        residual="sandwich",
        embedding_factor=32**0.5,
        rotary_bases=(10_000.0, 1_000_000.0),
        windows=(WINDOW, None),
        score_factor=5**-0.5,
    ),
    "phi": Anatomy(norm=layer_norm, activation=gelu, residual="parallel", rotary_share=0.5),
    "phi3": Anatomy(windows=(WINDOW, WINDOW)),
}


def logits_by_hand(
    model: PreTrainedModel, family: str, input_ids: Tensor, injected: Tensor, rule: Injection
) -> Tensor:
    """Logits (B, S, V) of `input_ids` (B, S).

    `injected` (B, S, H) is the vector a at a collaborative token and zero at a text token.
    """
    anatomy, decoder = ANATOMIES[family], model.model
    table = decoder.embed_tokens.token_embedding.weight
    is_text = (input_ids < len(table))[..., None]
    hidden = torch.where(
        is_text, anatomy.embedding_factor * table[input_ids.clamp_max(len(table) - 1)], injected
    )
    for index, layer in enumerate(decoder.layers):
        hidden = _layer(layer, anatomy, index, hidden, injected, rule)
    final_norm = decoder.final_layernorm if hasattr(decoder, "final_layernorm") else decoder.norm
    return _cap(_linear(anatomy.norm(hidden, final_norm), model.lm_head), anatomy.logit_cap)


def _layer(
    layer: nn.Module,
    anatomy: Anatomy,
    index: int,
    hidden: Tensor,
    injected: Tensor,
    rule: Injection,
) -> Tensor:
    h = anatomy.norm(hidden, layer.input_layernorm)
    attended = _attention(layer.self_attn, anatomy, index, h, injected, rule)
    if anatomy.residual == "parallel":
        return hidden + attended + _mlp(layer.mlp, anatomy, h)
    if anatomy.residual == "sandwich":
        hidden = hidden + anatomy.norm(attended, layer.post_attention_layernorm)
        fed = _mlp(layer.mlp, anatomy, anatomy.norm(hidden, layer.pre_feedforward_layernorm))
        return hidden + anatomy.norm(fed, layer.post_feedforward_layernorm)
    hidden = hidden + attended
    return hidden + _mlp(layer.mlp, anatomy, anatomy.norm(hidden, layer.post_attention_layernorm))


def _attention(
    attention: nn.Module, anatomy: Anatomy, index: int, h: Tensor, injected: Tensor, rule: Injection
) -> Tensor:
    q, k, v = (_heads(x) for x in _query_key_value(attention, h, injected, rule))
    if hasattr(attention, "q_norm"):
        q, k = anatomy.norm(q, attention.q_norm), anatomy.norm(k, attention.k_norm)
    q, k = (_rotary(x, anatomy.rotary_bases[index], anatomy.rotary_share) for x in (q, k))
    visible, group = _visible(h.shape[1], anatomy.windows[index]), NUM_HEADS // k.shape[1]
    attended = []
    for head in range(NUM_HEADS):
        scores = _cap(
            q[:, head] @ k[:, head // group].transpose(1, 2) * anatomy.score_factor,
            anatomy.score_cap,
        )
        attended.append(scores.masked_fill(~visible, -torch.inf).softmax(-1) @ v[:, head // group])
    return _linear(
        torch.cat(attended, -1),
        attention.dense if hasattr(attention, "dense") else attention.o_proj,
    )


def _query_key_value(
    attention: nn.Module, h: Tensor, injected: Tensor, rule: Injection
) -> list[Tensor]:
    """q (B, S, H), and k and v (B, S, key heads * HEAD_DIM), each with what the rule adds."""
    if hasattr(attention, "qkv_proj"):
        weight = attention.qkv_proj.weight
        width = (len(weight) - NUM_HEADS * HEAD_DIM) // 2
        weights, biases = weight.split([NUM_HEADS * HEAD_DIM, width, width]), [None] * 3
    else:
        parts = [getattr(attention, f"{name}_proj") for name in "qkv"]
        weights, biases = [part.weight for part in parts], [part.bias for part in parts]
    outputs = []
    for weight, bias in zip(weights, biases, strict=True):
        output = h @ weight.T if bias is None else h @ weight.T + bias
        if rule == "projected":
            output = output + injected @ weight.T
        if rule == "direct":
            output = output + _mean_of_groups(injected, len(weight) // HEAD_DIM)
        outputs.append(output)
    return outputs


def _mean_of_groups(a: Tensor, num_heads: int) -> Tensor:
    """The heads of a (B, S, H) averaged in `num_heads` groups of neighbouring heads."""
    heads, group = a.split(HEAD_DIM, dim=-1), NUM_HEADS // num_heads
    return torch.cat(
        [sum(heads[first : first + group]) / group for first in range(0, NUM_HEADS, group)], dim=-1
    )


def _mlp(mlp: nn.Module, anatomy: Anatomy, h: Tensor) -> Tensor:
    if hasattr(mlp, "fc1"):
        return _linear(anatomy.activation(_linear(h, mlp.fc1)), mlp.fc2)
    if hasattr(mlp, "gate_up_proj"):
        gate, up = _linear(h, mlp.gate_up_proj).chunk(2, dim=-1)
    else:
        gate, up = _linear(h, mlp.gate_proj), _linear(h, mlp.up_proj)
    return _linear(anatomy.activation(gate) * up, mlp.down_proj)


def _linear(x: Tensor, linear: nn.Module) -> Tensor:
    return x @ linear.weight.T if linear.bias is None else x @ linear.weight.T + linear.bias


def _heads(x: Tensor) -> Tensor:
    """(B, S, heads * HEAD_DIM) to (B, heads, S, HEAD_DIM)."""
    return torch.stack(x.split(HEAD_DIM, dim=-1), dim=1)


def _rotary(x: Tensor, base: float, share: float) -> Tensor:
    """Rotary embedding (arXiv 2104.09864) of the first `share` of each head.

    The first half of that part holds the real parts of complex numbers, the second half the
    imaginary parts.
    """
    turning, still = x.split([int(HEAD_DIM * share), HEAD_DIM - int(HEAD_DIM * share)], dim=-1)
    half = turning.shape[-1] // 2
    angles = torch.arange(x.shape[2])[:, None] * base ** -(torch.arange(half) / half)
    turned = torch.complex(turning[..., :half], turning[..., half:]) * torch.polar(
        torch.ones_like(angles), angles
    )
    return torch.cat([turned.real, turned.imag, still], dim=-1)


def _visible(length: int, window: int | None) -> Tensor:
    """(S, S), true where a position sees another: itself and those before, at most `window`."""
    distance = torch.arange(length)[:, None] - torch.arange(length)
    return (distance >= 0) & (distance < (window or length))


def _cap(x: Tensor, cap: float | None) -> Tensor:
    return x if cap is None else cap * torch.tanh(x / cap)
