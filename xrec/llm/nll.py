"""NLL of labels from a model's logits, a row of the batch at a time.

Logits are the largest tensor of a training step: 8 rows of 50 labels over a vocabulary of 49,152 are 79 MB in float32.
Autograd over float(), log_softmax and nll_loss holds four such tensors. Written out, only the model's own logits and their
gradient are held, in the model's dtype; the float32 copies are those of one row. All sums are in float32.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

IGNORE = -100


def label_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(logits)[label] in nats, (B, L) float32, for logits (B, L, V) and labels (B, L) int64; 0 where a label is -100."""
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
        """d nll / d logits = softmax(logits), less 1 at the label."""
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
