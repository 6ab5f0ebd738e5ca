"""The FLOP of a language model's passes.

A pass over B rows of S positions after P cached ones, in a decoder of L layers whose matrices have
M weights, has:

    matrices     2 M B S
    attention    4 L B S (P + S) heads head_dim     scores and weighted values; masked ones are
                                                    included, because kernels compute them
    logits       2 H V for each position that has them

The model is frozen, so a backward pass is for activations only. A matrix has one product there, for
the gradient of its input, as in the forward pass. Attention has two for each of its two, because
both factors have gradients: four against two. What gradient checkpointing, or an attention kernel,
computes a second time is not counted.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


class WorkMeter:
    """Counts in `flop` every pass through `model` from now on, padding included."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.flop = 0
        self._config = model.config.get_text_config(decoder=True)
        layers = model.get_decoder().layers
        self._matrix_weights = sum(
            part.weight.numel() for part in layers.modules() if isinstance(part, nn.Linear)
        )
        self._num_layers = len(layers)
        model.get_decoder().register_forward_pre_hook(self._count_decoder, with_kwargs=True)
        model.get_output_embeddings().register_forward_hook(self._count_logits)

    def _count_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        rows, length = kwargs["input_ids"].shape
        past = kwargs["cache"].get_seq_length() if kwargs.get("cache") is not None else 0
        heads = self._config.num_attention_heads
        width = heads * getattr(self._config, "head_dim", self._config.hidden_size // heads)
        attention = 4 * self._num_layers * rows * length * (past + length) * width
        self._add(2 * self._matrix_weights * rows * length, times_in_backward=1)
        self._add(attention, times_in_backward=2)

    def _count_logits(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        self._add(2 * output.numel() * args[0].shape[-1], times_in_backward=1)

    def _add(self, flop: int, *, times_in_backward: int) -> None:
        self.flop += flop * (1 + times_in_backward) if torch.is_grad_enabled() else flop
