"""A baseline that writes words: its batches, the loss of its texts, and greedy decoding."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xrec.lab.baselines.codec import BEGIN, END, PAD, UNKNOWN
from xrec.llm.loss import IGNORE, label_nll


@dataclass(frozen=True)
class TextBatch:
    """B pairs with their texts.

    users, items: (B,) int64, indices. labels: (B, T) int64, the tokens of each text with its end
    token, padded with -100; T is 0 if the model is to write the texts.
    """

    users: Tensor
    items: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "TextBatch":
        """Return the batch on `device`."""
        return TextBatch(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    @property
    def inputs(self) -> Tensor:
        """The token before each label, (B, T): <bos>, then all labels but the last."""
        begin = self.labels.new_full((len(self.labels), 1), BEGIN)
        return torch.cat([begin, self.labels[:, :-1].clamp_min(PAD)], dim=1)

    @property
    def words(self) -> Tensor:
        """The labels without the end token, (B, T); -100 elsewhere."""
        words: Tensor = self.labels.masked_fill(self.labels == END, IGNORE)
        return words


class Trained(nn.Module):
    """A model that `BaselineTrainer` trains.

    loss_weights: the weight of each loss that `forward` returns; the first is the texts' NLL.
    num_phases: how many times it is trained until it stops improving.
    """

    loss_weights: tuple[float, ...] = (1.0,)
    num_phases = 1

    def begin_phase(self, phase: int) -> None:
        """Choose the parameters that `phase`, from 0, trains."""

    def counts(self, batch: Any) -> Tensor:
        """Return the number of values that each loss is a sum of, (K,) float32."""
        count: Tensor = (batch.labels >= 0).sum().float()[None]
        return count


class Writer(Trained):
    """A model of texts, trained by the mean NLL of their tokens; subclasses may add losses.

    It has a vector of D numbers for each of U users and I items.
    """

    def __init__(self, num_users: int, num_items: int, embedding_dim: int):
        super().__init__()
        self.users = nn.Embedding(num_users, embedding_dim)
        self.items = nn.Embedding(num_items, embedding_dim)

    def pair_vectors(self, pairs: TextBatch) -> Tensor:
        """Return the vectors of each pair's user and item, (B, 2, D)."""
        return torch.stack([self.users(pairs.users), self.items(pairs.items)], dim=1)

    def logits(self, pairs: TextBatch, token_ids: Tensor) -> Tensor:
        """Return the logits after each of S tokens (B, S), which start with <bos>: (B, S, V)."""
        raise NotImplementedError

    def forward(self, batch: TextBatch) -> Tensor:
        """Return the sum of each loss over the batch, (K,) float32, in nats."""
        return label_nll(self.logits(batch, batch.inputs), batch.labels).sum()[None]

    @torch.inference_mode()
    def write(self, pairs: TextBatch, max_words: int) -> list[list[int]]:
        """Return the greedy text of each of B pairs, as token IDs.

        A text ends with its end token, or after `max_words` tokens without one. <pad>, <bos> and
        <unk> are never written. A text does not depend on the other pairs of the batch. Each step
        reads the whole text again, as PETER's public code does.
        """
        token_ids = torch.full_like(pairs.users, BEGIN)[:, None]
        while token_ids.shape[1] <= max_words + 1 and not bool((token_ids == END).any(1).all()):
            logits = self.logits(pairs, token_ids)[:, -1]
            logits[:, [PAD, BEGIN, UNKNOWN]] = -torch.inf
            token_ids = torch.cat([token_ids, logits.argmax(dim=1, keepdim=True)], dim=1)
        return ended(token_ids[:, 1:], END, max_words)


def ended(token_ids: Tensor, end: int, max_words: int) -> list[list[int]]:
    """Return each text (B, S) up to its end token, or `max_words` tokens of one without an end."""
    rows: list[list[int]] = token_ids.tolist()
    return [row[: row.index(end) + 1] if end in row else row[:max_words] for row in rows]


def draw_uniformly(scale: float, *modules: nn.Embedding | nn.Linear) -> None:
    """Draw the weights from -scale to scale, and set biases to zero."""
    for module in modules:
        nn.init.uniform_(module.weight, -scale, scale)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
