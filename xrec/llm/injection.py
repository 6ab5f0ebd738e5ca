"""Injection: each layer adds the vector a of a collaborative token to its query, key, and value.

h is the input of a layer's attention, and W_q, W_k, W_v are its projections. All rules apply before
the rotary embedding:

- `projected`: h -> h + a, so q += W_q a, k += W_k a, v += W_v a. This is the rule in the paper
  (XRec, arXiv 2406.02377, section 3.2). It works for every decoder whose layers have a `self_attn`.
- `direct`: q += a, k += a, v += a, with the same vector in all layers. This is the rule of the
  public XRec code, which needs k and v as wide as the hidden state. In grouped-query models, whose
  k and v are narrower, the query heads of each group are averaged (`fold_heads`). This is our own
  extension: we know of no public code that injects per layer in grouped-query models.
- `none`: a is only in the input embedding. This is an ablation.

The rules are forward hooks, so no model code is copied. docs/method.md explains them for each model
family. `direct` needs q as wide as the hidden state, so it refuses some sizes of Qwen3, Gemma, and
Mistral.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from xrec.config import Injection
from xrec.errors import ModelError
from xrec.llm.collaborative import CollaborativeEmbedding


def install_injection(
    model: PreTrainedModel, embedding: CollaborativeEmbedding, rule: Injection
) -> None:
    """Add the hooks of `rule` to all layers of `model`.

    Raises ModelError, without adding a hook, if the layers lack a part that the rule needs.
    """
    if rule == "none":
        return
    attentions = _attentions(model)
    if rule == "projected":
        for attention in attentions:
            attention.register_forward_pre_hook(_add_to_hidden_states(embedding), with_kwargs=True)
        return
    hidden_size = embedding.token_embedding.embedding_dim
    placed = [
        _place_direct(type(model).__name__, attention, hidden_size) for attention in attentions
    ]
    for projections, head_dim in placed:
        for projection, widths in projections:
            projection.register_forward_hook(_add_to_output(embedding, widths, head_dim))


def fold_heads(vectors: Tensor, num_key_value_heads: int, head_dim: int) -> Tensor:
    """Average `vectors` (..., num_heads * head_dim) over the query heads of each group.

    Returns (..., num_key_value_heads * head_dim).
    """
    groups = vectors.unflatten(-1, (num_key_value_heads, -1, head_dim))
    folded: Tensor = groups.mean(dim=-2).flatten(-2)
    return folded


def _attentions(model: PreTrainedModel) -> list[nn.Module]:
    name, decoder = type(model).__name__, model.get_decoder()
    layers = getattr(decoder, "layers", None)
    if layers is None:
        raise ModelError(
            f"{name}: its decoder, a {type(decoder).__name__}, has no `layers`; "
            "projected and direct need decoder layers with a `self_attn`; "
            "use model.injection=none for this model",
            code="no_layers",
            key="model.injection",
            saw=name,
        )
    missing = [index for index, layer in enumerate(layers) if not hasattr(layer, "self_attn")]
    if missing:
        raise ModelError(
            f"{name}: {len(missing)} of its {len(layers)} layers have no `self_attn`, "
            f"the first is layer {missing[0]}, a {type(layers[missing[0]]).__name__}; "
            "projected and direct need it in all layers; use model.injection=none for this model",
            code="no_attention",
            key="model.injection",
            saw=missing,
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
"""The modules whose outputs are q, k, and v, with the widths of the parts of each output."""


def _place_direct(model: str, attention: nn.Module, hidden_size: int) -> tuple[Projections, int]:
    """Return an attention's projections and the width of a head.

    Raises ModelError if they lack the shapes that `direct` needs.
    """
    head_dim = _required(model, attention, ["head_dim"])[0]
    projections = _projections(model, attention)
    query, key, value = (width for _, widths in projections for width in widths)
    if query != hidden_size or key != value or key % head_dim or query % key:
        raise ModelError(
            f"{model}: the widths are q {query}, k {key}, v {value}, head {head_dim}, "
            f"h {hidden_size}; direct needs q as wide as h, k as wide as v, and groups of whole "
            "heads; use model.injection=projected",
            code="query_width",
            key="model.injection",
            saw=[query, key, value, head_dim, hidden_size],
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
            f"{model}: its attention, a {type(attention).__name__}, has no {', '.join(missing)}; "
            "direct needs q_proj, k_proj and v_proj, or a qkv_proj with num_key_value_groups, "
            "and head_dim; use model.injection=projected",
            code="no_projections",
            key="model.injection",
            saw=missing,
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
