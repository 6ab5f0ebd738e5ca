"""Counts the FLOP of a language model's passes, and measures the rate of a matrix product.

A pass over B rows of S positions after P cached ones, in a decoder of L layers whose matrices have
M weights, has:

    matrices     2 M B S
    attention    4 L B S (P + S) heads head_dim     scores and weighted values; masked ones are
                                                    included, because kernels compute them
    logits       2 H V for each position that has them

The model is frozen, so a backward pass is for activations only and costs the same again.
"""

import time
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

_SIDE = 1024
_NUM_LOOPS = 10
_PRODUCTS_PER_LOOP = 4


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
        self._add(2 * self._matrix_weights * rows * length + attention)

    def _count_logits(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        self._add(2 * output.numel() * args[0].shape[-1])

    def _add(self, flop: int) -> None:
        self.flop += 2 * flop if torch.is_grad_enabled() else flop


def matrix_rate(dtype: torch.dtype) -> float:
    """Return the FLOP a second of the product of two square matrices, the best of short loops.

    All of torch's threads work. The time is the CPU time of the calling thread, which works as long
    as the others, so that another process on the machine does not lower the rate.
    """
    left, right = (torch.randn(_SIDE, _SIDE, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(_NUM_LOOPS):
        start = time.thread_time()
        for _ in range(_PRODUCTS_PER_LOOP):
            left @ right
        seconds.append(time.thread_time() - start)
    return 2 * _SIDE**3 * _PRODUCTS_PER_LOOP / min(seconds)
