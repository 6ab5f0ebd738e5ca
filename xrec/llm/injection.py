"""Injection: the adapted vector a enters query, key and value of every layer at its collaborative token.

With h the input of a layer's attention and W_q, W_k, W_v its projections, before rotary embedding:

- `projected`: h -> h + a, so q += W_q a, k += W_k a, v += W_v a; the rule that the published text states
  (XRec, arXiv 2406.02377, section 3.2). Works for every decoder whose layers have a `self_attn`.
- `direct`: q += a, k += a, v += a, the same vector in all layers; the rule of the public XRec code, which needs k and
  v as wide as the hidden state. On grouped-query models a is folded to their width by averaging the query heads of
  each group. No public code keeps per-layer injection on grouped-query models: the fold is our extension.
- `none`: only the input embedding carries a (the ablation).

All by hooks; no model code is copied. What a family does around the place where a enters:

| family        | projections             | meaning of the rules there                                                       |
|---------------|-------------------------|----------------------------------------------------------------------------------|
| Llama         | q, k, v                 | as above                                                                         |
| Mistral       | q, k, v                 | as above; beyond a sliding window a layer sees neither the token nor its a       |
| Qwen2         | q, k, v with a bias     | W a is without the bias, which h has already had; windows where they are set     |
| Qwen3         | q, k, v; norm of q, k   | both rules add before the norm: it sets the size of q and k, a their direction   |
| Gemma         | q, k, v                 | words enter at sqrt(H) times their row; a enters as it is, with their size       |
| Gemma 2       | q, k, v                 | as Gemma; scores are capped after a; windows in every other layer                |
| Gemma 3, text | q, k, v; norm of q, k   | as Gemma and Qwen3; windows in five layers of six                                |
| Phi (1, 2)    | q, k, v with a bias     | attention and MLP share h: the MLP gets h without a                              |
| Phi 3, 4      | one qkv_proj            | `direct` adds to the slices q, k, v of its output                                |

`direct` needs a query as wide as the hidden state, which some sizes of Qwen3, Gemma and Mistral do not have.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from xrec.config.adapter import Injection
from xrec.errors import ModelError
from xrec.llm.collaborative import CollaborativeEmbedding


def install_injection(
    model: PreTrainedModel, embedding: CollaborativeEmbedding, rule: Injection
) -> list[RemovableHandle]:
    """Add the hooks of `rule` to all layers of `model`; returns their handles, to remove them again.

    Raises ModelError, naming the missing piece, if the model's layers are not built as the rule needs; no hook is left then.
    """
    if rule == "none":
        return []
    attentions = _attentions(model)
    if rule == "projected":
        return [
            attention.register_forward_pre_hook(_add_to_hidden_states(embedding), with_kwargs=True)
            for attention in attentions
        ]
    hidden_size = embedding.token_embedding.embedding_dim
    placed = [
        _place_direct(type(model).__name__, attention, hidden_size) for attention in attentions
    ]
    return [
        projection.register_forward_hook(_add_to_output(embedding, widths, head_dim))
        for projections, head_dim in placed
        for projection, widths in projections
    ]


def fold_heads(vectors: Tensor, num_key_value_heads: int, head_dim: int) -> Tensor:
    """(..., num_heads * head_dim) to (..., num_key_value_heads * head_dim): the mean over the query heads of each group."""
    folded: Tensor = (
        vectors.unflatten(-1, (num_key_value_heads, -1, head_dim)).mean(dim=-2).flatten(-2)
    )
    return folded


def _attentions(model: PreTrainedModel) -> list[nn.Module]:
    name, decoder = type(model).__name__, model.get_decoder()
    layers = getattr(decoder, "layers", None)
    if layers is None:
        raise ModelError(
            f"{name}: its decoder, a {type(decoder).__name__}, has no `layers`; projected and direct need decoder layers "
            "with a `self_attn`; use model.injection=none for this model"
        )
    missing = [index for index, layer in enumerate(layers) if not hasattr(layer, "self_attn")]
    if missing:
        raise ModelError(
            f"{name}: {len(missing)} of its {len(layers)} layers have no `self_attn`, the first is layer {missing[0]}, "
            f"a {type(layers[missing[0]]).__name__}; projected and direct need it in all; use model.injection=none for this model"
        )
    return [layer.self_attn for layer in layers]


def _add_to_hidden_states(embedding: CollaborativeEmbedding) -> Callable[..., Any]:
    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if embedding.injection is None:
            return None
        if "hidden_states" in kwargs:
            return args, {**kwargs, "hidden_states": kwargs["hidden_states"] + embedding.injection}
        return (args[0] + embedding.injection, *args[1:]), kwargs

    return hook


Projections = list[tuple[nn.Module, list[int]]]
"""The modules that give q, k and v, each with the widths of what it gives, one after the other."""


def _place_direct(model: str, attention: nn.Module, hidden_size: int) -> tuple[Projections, int]:
    """An attention's projections and the width of its heads; raises ModelError if `direct` does not fit them."""
    head_dim = _required(model, attention, ["head_dim"])[0]
    projections = _projections(model, attention)
    query, key, value = (width for _, widths in projections for width in widths)
    if query != hidden_size or key != value or key % head_dim or query % key:
        raise ModelError(
            f"{model}: q is {query} wide, k {key}, v {value}, a head {head_dim}, h {hidden_size}; "
            "direct needs q as wide as h, k and v alike, in groups of whole heads; use model.injection=projected"
        )
    return projections, head_dim


def _projections(model: str, attention: nn.Module) -> Projections:
    if hasattr(attention, "qkv_proj"):
        fused, num_groups = _required(model, attention, ["qkv_proj", "num_key_value_groups"])
        width = fused.out_features // (num_groups + 2)
        return [(fused, [num_groups * width, width, width])]
    return [
        (projection, [projection.out_features])
        for projection in _required(model, attention, ["q_proj", "k_proj", "v_proj"])
    ]


def _required(model: str, attention: nn.Module, names: list[str]) -> list[Any]:
    missing = [name for name in names if getattr(attention, name, None) is None]
    if missing:
        raise ModelError(
            f"{model}: its attention, a {type(attention).__name__}, has no {', '.join(missing)}; direct needs q_proj, k_proj and v_proj, "
            "or a qkv_proj with num_key_value_groups, and head_dim; use model.injection=projected"
        )
    return [getattr(attention, name) for name in names]


def _add_to_output(
    embedding: CollaborativeEmbedding, widths: list[int], head_dim: int
) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if embedding.injection is None:
            return None
        injection = embedding.injection
        return output + torch.cat(
            [fold_heads(injection, width // head_dim, head_dim) for width in widths], dim=-1
        )

    return hook
