"""Examples for training and scoring: a prompt and the explanation that follows, as token ids."""

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from xrec.llm.nll import IGNORE, label_nll
from xrec.llm.prefix import KeyValues, last_positions


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
        return Batch(
            self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device)
        )


def collate(examples: Sequence[Example]) -> Batch:
    """One batch of examples; explanations end at the right edge: labels are the last positions."""
    length = max(len(example) for example in examples)
    num_labels = max(len(example.label_ids) for example in examples)
    input_ids = torch.zeros(len(examples), length, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    labels = torch.full((len(examples), num_labels), IGNORE)
    for row, example in enumerate(examples):
        input_ids[row, length - len(example) :] = torch.tensor(
            [*example.prompt_ids, *example.label_ids]
        )
        attention_mask[row, length - len(example) :] = 1
        labels[row, num_labels - len(example.label_ids) :] = torch.tensor(example.label_ids)
    return Batch(input_ids, attention_mask, labels)


def token_nll(model: PreTrainedModel, batch: Batch, past: KeyValues | None = None) -> Tensor:
    """NLL in nats of each label token, (B, L); 0 where a label is -100.

    `past` holds what comes before the batch's rows. Logits are computed at the L positions that
    predict a label only.
    """
    mask, cache = batch.attention_mask, None
    if past is not None:
        mask, cache = torch.cat([past.mask, mask], dim=1), past.cache()
    length, num_labels = batch.input_ids.shape[1], batch.labels.shape[1]
    logits = model(
        input_ids=batch.input_ids,
        attention_mask=mask,
        position_ids=last_positions(mask, length),
        cache=cache,
        use_cache=cache is not None,
        # A tensor, because a number makes a slice, and its product with the head copies the head
        # for each row.
        logits_to_keep=torch.arange(
            length - num_labels - 1, length - 1, device=batch.input_ids.device
        ),
    ).logits
    return label_nll(logits, batch.labels)


@torch.inference_mode()
def explanation_nll(
    model: PreTrainedModel, examples: Sequence[Example], batch_size: int
) -> Iterator[tuple[int, float]]:
    """Yield (index, mean NLL in nats a token) of each example, in batches of similar length.

    The NLL of an example without labels is NaN.
    """
    order = sorted(range(len(examples)), key=lambda index: len(examples[index]))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch = collate([examples[index] for index in indices]).to(model.device)
        totals = token_nll(model, batch).sum(dim=1)
        for index, total in zip(indices, totals.tolist(), strict=True):
            num_labels = len(examples[index].label_ids)
            yield index, total / num_labels if num_labels else math.nan
