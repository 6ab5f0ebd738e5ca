"""Examples for training and scoring: a prompt and the explanation that follows, as token ids.

Their negative log-likelihood (NLL) is computed row by row, because logits are the largest tensor of
a training step: 8 rows of 50 labels over a vocabulary of 49,152 take 79 MB in float32. Autograd
over float(), log_softmax and nll_loss would hold four such tensors. `label_nll` has its gradient
written out, so that only the model's logits and their gradient are held, both in the model's dtype.
Float32 copies exist for one row at a time. Sums are in float32.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

IGNORE = -100
CACHE = "cache" if Version(transformers.__version__) >= Version("5.24") else "past_key_values"
"""The argument of a model's `forward` that takes a cache; other names are silently ignored."""


@dataclass(frozen=True)
class Example:
    """A prompt and the token ids that are to follow it, end token included."""

    prompt_ids: Sequence[int]
    label_ids: Sequence[int]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.label_ids)

    def packed(self) -> "Example":
        """The same in 4 bytes a token, a tenth of what lists take, where many are kept."""
        return Example(array("i", self.prompt_ids), array("i", self.label_ids))


@dataclass(frozen=True)
class Batch:
    """Left-padded rows: `input_ids` and `attention_mask` (B, S), `labels` (B, L), all int64.

    Labels are -100 before a shorter explanation.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        return Batch(*(tensor.to(device) for tensor in vars(self).values()))


def collate(examples: Sequence[Example]) -> Batch:
    """One batch of examples; explanations end at the right edge: labels are the last positions."""
    rows = [torch.tensor([*example.prompt_ids, *example.label_ids]) for example in examples]
    labels = [torch.tensor(list(example.label_ids)) for example in examples]
    padded = partial(pad_sequence, batch_first=True, padding_side="left")
    return Batch(
        input_ids=padded(rows),
        attention_mask=padded([torch.ones_like(row) for row in rows]),
        labels=padded(labels, padding_value=IGNORE),
    )


@dataclass(frozen=True)
class KeyValues:
    """Keys and values of P positions in every layer, for B rows.

    `tensor` (layers, 2, B, heads, P, head_dim); `mask` (B, P) is 1, and 0 at padding.
    """

    tensor: Tensor
    mask: Tensor

    def cache(self) -> DynamicCache:
        """A new cache for transformers; what the model appends to it does not change `self`."""
        return DynamicCache([(layer[0], layer[1]) for layer in self.tensor])


def token_nll(model: PreTrainedModel, batch: Batch, past: KeyValues | None = None) -> Tensor:
    """NLL in nats of each label token, (B, L); 0 where a label is -100.

    `past` holds what comes before the batch's rows. Logits (B, L, V) are computed at the L
    positions that predict a label, and at no others.
    """
    mask, cache = batch.attention_mask, None
    if past is not None:
        mask, cache = torch.cat([past.mask, mask], dim=1), past.cache()
    length, num_labels = batch.input_ids.shape[1], batch.labels.shape[1]
    logits = model(
        input_ids=batch.input_ids,
        attention_mask=mask,
        position_ids=last_positions(mask, length),
        use_cache=cache is not None,
        # A tensor, because a number makes a slice, and its product with the head copies the head
        # for each row.
        logits_to_keep=torch.arange(
            length - num_labels - 1, length - 1, device=batch.input_ids.device
        ),
        **{CACHE: cache},
    ).logits
    return label_nll(logits, batch.labels)


def last_positions(mask: Tensor, count: int) -> Tensor:
    """Position ids (B, count) of the last `count` columns of an attention mask (B, S).

    Padding does not count as a position.
    """
    return (mask.cumsum(-1) - 1).clamp_min(0)[:, -count:]


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
