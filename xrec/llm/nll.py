"""The negative log-likelihood (NLL) of labels under a model's logits, computed row by row.

Logits are the largest tensor of a training step: 8 rows of 50 labels over a vocabulary of 49,152
take 79 MB in float32. Autograd over float(), log_softmax and nll_loss would hold four such tensors.
This module writes the gradient out by hand, so that only the model's logits and their gradient are
held, both in the model's dtype. Float32 copies exist for one row at a time. Sums are in float32.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

IGNORE = -100


def label_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(logits)[label] in nats, (B, L) float32; 0 where the label is -100.

    `logits` (B, L, V) of any floating-point type, `labels` (B, L) int64.
    """
    nll: Tensor = _LabelNLL.apply(logits, labels)  # type: ignore[no-untyped-call]
    return nll


class _LabelNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(logits, labels)
        rows = zip(logits, labels, strict=True)
        return torch.stack(
            [
                functional.cross_entropy(row.float(), label, ignore_index=IGNORE, reduction="none")
                for row, label in rows
            ]
        )

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        """d nll / d logits is softmax(logits), minus 1 at the label."""
        logits, labels = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for row, label, weight, target in zip(
            logits, labels, grad_outputs[0] * (labels != IGNORE), gradient, strict=True
        ):
            probabilities = functional.softmax(row, dim=-1, dtype=torch.float32)
            probabilities.scatter_add_(
                1, label.clamp_min(0)[:, None], probabilities.new_full((len(label), 1), -1.0)
            )
            target.copy_(probabilities.mul_(weight[:, None]))
        return gradient, None
