"""The speed of training: FLOP of the language model's passes, tokens a second, share of the peak.

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

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

PEAK_TFLOPS = {
    "A10": 125,
    "A100": 312,
    "A30": 165,
    "B200": 2250,
    "GH200": 989,
    "H100": 989,
    "H100 NVL": 835,
    "H100 PCIe": 756,
    "H200": 989,
    "H200 NVL": 835,
    "L4": 121,
    "L40S": 362,
}
"""Matrix products in bfloat16 or float16, dense, in TFLOP a second, by the makers' data sheets."""


def peak_tflops(device_name: str, dtype: torch.dtype) -> float | None:
    """Return the peak of the GPU `device_name`, or None if it or its peak in `dtype` is not known.

    The longest name of the table whose words all stand in the device's name counts. A slice of a
    GPU (MIG) has the GPU's name in its own, and its peak is not known.
    """
    words = set(device_name.replace("-", " ").split())
    if dtype not in (torch.bfloat16, torch.float16) or "MIG" in words:
        return None
    known = [name for name in PEAK_TFLOPS if set(name.split()) <= words]
    return PEAK_TFLOPS[max(known, key=len)] if known else None


class WorkMeter:
    """Counts in `flop` every pass through `model` from now on, padding included."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.flop = 0
        self._config = model.config.get_text_config(decoder=True)
        layers = model.get_decoder().layers
        self._matrix_weights = sum(
            _num_elements(part.weight) for part in layers.modules() if isinstance(part, nn.Linear)
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


def _num_elements(weight: Any) -> int:
    """Return the number of elements of the whole weight, which ZeRO stage 3 may have sharded."""
    return int(getattr(weight, "ds_numel", weight.numel()))


@dataclass(frozen=True)
class Speed:
    """What all workers did in some time: tokens without padding, FLOP with it, and the seconds."""

    num_tokens: float
    flop: float
    seconds: float
    num_workers: int

    def row(self, peak: float | None) -> dict[str, float]:
        """Return the figures for an epoch's report.

        `peak` is that of one worker's device in TFLOP a second; without it there is no share.
        """
        tflops = self.flop / self.seconds / self.num_workers / 1e12
        figures = {
            "tokens_per_second": self.num_tokens / self.seconds,
            "tflops_per_worker": tflops,
        }
        return figures if peak is None else {**figures, "share_of_peak": tflops / peak}


def describe_speed(row: dict[str, Any]) -> str:
    """Return the speed in an epoch's report as a phrase for the log."""
    if "tokens_per_second" not in row:
        return ""
    text = f"{row['tokens_per_second']:,.0f} tokens a second"
    if "share_of_peak" in row:
        text += f", {row['share_of_peak']:.1%} of the peak"
    return f", {text}"
