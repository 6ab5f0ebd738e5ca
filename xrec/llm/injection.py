"""Injection: the adapted vector a enters query, key and value of every layer at its collaborative token.

With h the input of a layer's attention and W_q, W_k, W_v its projections, before rotary embedding:

- `projected`: h -> h + a, so q += W_q a, k += W_k a, v += W_v a; the rule that the published text states
  (XRec, arXiv 2406.02377, section 3.2). Works for every decoder whose layers have a `self_attn`.
- `direct`: q += a, k += a, v += a, the same vector in all layers; the rule of the public XRec code, which needs k and
  v as wide as the hidden state. On grouped-query models a is folded to their width by averaging the query heads of
  each group. No public code keeps per-layer injection on grouped-query models: the fold is our extension.
- `none`: only the input embedding carries a (the ablation).

All by hooks; no model code is copied.
"""

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from xrec.config import Injection
from xrec.errors import ModelError
from xrec.llm.collaborative import CollaborativeEmbedding


def install_injection(model: PreTrainedModel, embedding: CollaborativeEmbedding, rule: Injection) -> list[RemovableHandle]:
    """Add the hooks of `rule` to all layers of `model`; returns their handles, to remove them again.

    Raises ModelError, naming the missing piece, if the model's layers are not built as the rule needs.
    """
    if rule == "none":
        return []
    attentions = _attentions(model)
    if rule == "projected":
        return [attention.register_forward_pre_hook(_add_to_hidden_states(embedding), with_kwargs=True) for attention in attentions]
    return [handle for attention in attentions for handle in _install_direct(model, attention, embedding)]


def fold_heads(vectors: Tensor, num_key_value_heads: int, head_dim: int) -> Tensor:
    """(..., num_heads * head_dim) to (..., num_key_value_heads * head_dim): the mean over the query heads of each group."""
    folded: Tensor = vectors.unflatten(-1, (num_key_value_heads, -1, head_dim)).mean(dim=-2).flatten(-2)
    return folded


def _attentions(model: PreTrainedModel) -> list[nn.Module]:
    layers = getattr(model.get_decoder(), "layers", None)
    if layers is None:
        raise ModelError(f"{type(model).__name__}: its decoder has no `layers`; injection knows decoders with layers that have a `self_attn`")
    missing = [index for index, layer in enumerate(layers) if not hasattr(layer, "self_attn")]
    if missing:
        raise ModelError(f"{type(model).__name__}: layers {missing} have no `self_attn`; use model.injection=none for this model")
    return [layer.self_attn for layer in layers]


def _add_to_hidden_states(embedding: CollaborativeEmbedding) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if embedding.injection is None:
            return None
        if "hidden_states" in kwargs:
            return args, {**kwargs, "hidden_states": kwargs["hidden_states"] + embedding.injection}
        return (args[0] + embedding.injection, *args[1:]), kwargs

    return hook


def _install_direct(model: PreTrainedModel, attention: nn.Module, embedding: CollaborativeEmbedding) -> list[RemovableHandle]:
    names = ("q_proj", "k_proj", "v_proj")
    missing = [name for name in names if not hasattr(attention, name)]
    if missing:
        raise ModelError(f"{type(model).__name__}: its attention has no {', '.join(missing)}; injection=direct needs them, use projected")
    hidden_size, head_dim = int(model.config.hidden_size), int(cast("int", attention.head_dim))
    widths = {name: int(getattr(attention, name).out_features) for name in names}
    if widths["q_proj"] != hidden_size:
        raise ModelError(f"{type(model).__name__}: q is {widths['q_proj']} wide, h {hidden_size}; direct needs them equal, use projected")
    return [getattr(attention, name).register_forward_hook(_add_to_output(embedding, widths[name] // head_dim, head_dim)) for name in names]


def _add_to_output(embedding: CollaborativeEmbedding, num_heads: int, head_dim: int) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if embedding.injection is None:
            return None
        return output + fold_heads(embedding.injection, num_heads, head_dim)

    return hook
