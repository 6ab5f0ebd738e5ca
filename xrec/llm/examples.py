"""Training and scoring examples: the ids of a prompt and of the explanation that follows, batches of them, their NLL."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

IGNORE = -100


@dataclass(frozen=True)
class Example:
    """A prompt and the token ids that are to follow it, end token included."""

    prompt_ids: Sequence[int]
    label_ids: Sequence[int]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.label_ids)


@dataclass(frozen=True)
class Batch:
    """Left-padded rows: `input_ids`, `attention_mask` (B, S) int64; `labels` (B, L), -100 before a shorter explanation."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device))


def collate(examples: Sequence[Example]) -> Batch:
    """Examples to one batch; prompts and explanations end at the right edge, so labels are the last positions."""
    length = max(len(example) for example in examples)
    num_labels = max(len(example.label_ids) for example in examples)
    input_ids = torch.zeros(len(examples), length, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    labels = torch.full((len(examples), num_labels), IGNORE)
    for row, example in enumerate(examples):
        input_ids[row, length - len(example) :] = torch.tensor([*example.prompt_ids, *example.label_ids])
        attention_mask[row, length - len(example) :] = 1
        labels[row, num_labels - len(example.label_ids) :] = torch.tensor(example.label_ids)
    return Batch(input_ids, attention_mask, labels)


def token_nll(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
    """NLL in nats of each label token, (B, L); 0 where `labels` is -100.

    `input_ids`, `attention_mask` (B, S), left-padded, with the labels at their end; `labels` (B, L), L <= S - 1. Logits
    are computed at the last L + 1 positions only.
    """
    position_ids = (attention_mask.cumsum(-1) - 1).clamp_min(0)
    num_labels = labels.shape[-1]
    logits = model(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, logits_to_keep=num_labels + 1, use_cache=False
    ).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), labels, ignore_index=-100, reduction="none")


@torch.inference_mode()
def explanation_nll(model: PreTrainedModel, examples: Sequence[Example], batch_size: int) -> Iterator[tuple[int, float]]:
    """Yield (index, mean NLL in nats a token) of each example, in batches of similar length; NaN for one without labels."""
    order = sorted(range(len(examples)), key=lambda index: len(examples[index]))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch = collate([examples[index] for index in indices]).to(model.device)
        totals = token_nll(model, batch.input_ids, batch.attention_mask, batch.labels).sum(dim=1)
        for index, total in zip(indices, totals.tolist(), strict=True):
            num_labels = len(examples[index].label_ids)
            yield index, total / num_labels if num_labels else math.nan
