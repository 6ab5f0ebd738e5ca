"""What the training and the writing know of a model: batches in, sums of losses or logits out.

A text is a row of token ids. Which tokens they are, the model need not know, but for the two that
padding and a text's beginning have (`xrec.lab.baselines.codec`).
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xrec.llm.examples import IGNORE, label_nll


@dataclass(frozen=True)
class Pairs:
    """What a model reads of B pairs.

    users, items: (B,) int64, their indices.
    aspects: (B, A) int64, the tokens of the aspects that were chosen, 0 where there are no more.
    """

    users: Tensor
    items: Tensor
    aspects: Tensor

    def to(self, device: torch.device) -> "Pairs":
        """The same on `device`."""
        return Pairs(*(tensor.to(device) for tensor in (self.users, self.items, self.aspects)))


@dataclass(frozen=True)
class TextBatch:
    """B pairs with what is to be written of them.

    token_ids: (B, T) int64, the texts with their end tokens; behind them anything may stand.
    lengths: (B,) int64, how many tokens of each row count. num_words: those without the end.
    ratings: (B,) float32, NaN where none is known.
    """

    pairs: Pairs
    token_ids: Tensor
    lengths: Tensor
    num_words: Tensor
    ratings: Tensor

    def to(self, device: torch.device) -> "TextBatch":
        """The same on `device`."""
        rest = (self.token_ids, self.lengths, self.num_words, self.ratings)
        return TextBatch(self.pairs.to(device), *(tensor.to(device) for tensor in rest))

    @property
    def counts(self) -> Tensor:
        """How many tokens, words and ratings a model's losses are sums of, (3,) float32."""
        rated = ~self.ratings.isnan()
        return torch.stack([self.lengths.sum(), self.num_words.sum(), rated.sum()]).float()

    @property
    def labels(self) -> Tensor:
        """The token ids, and -100 where none counts, (B, T)."""
        return self._first(self.lengths)

    @property
    def words(self) -> Tensor:
        """The token ids without the end, and -100 elsewhere, (B, T)."""
        return self._first(self.num_words)

    def _first(self, numbers: Tensor) -> Tensor:
        places = torch.arange(self.token_ids.shape[1], device=self.token_ids.device)
        return self.token_ids.masked_fill(places >= numbers[:, None], IGNORE)

    def inputs(self, begin_id: int) -> Tensor:
        """What stands before each token: the begin token, then all but the last one, (B, T)."""
        begin = self.token_ids.new_full((len(self.token_ids), 1), begin_id)
        return torch.cat([begin, self.token_ids[:, :-1]], dim=1)


@dataclass(frozen=True)
class Ratings:
    """The scale of a dataset's ratings, whole numbers from `least` to `greatest`."""

    least: int
    greatest: int

    @property
    def count(self) -> int:
        """How many ratings there are."""
        return self.greatest - self.least + 1

    def one_hot(self, ratings: Tensor) -> Tensor:
        """The nearest whole rating of each, as (B, count) float32; it has no gradient."""
        nearest = ratings.detach().round().clamp(self.least, self.greatest).long() - self.least
        return nn.functional.one_hot(nearest, self.count).float()


@dataclass(frozen=True)
class Step:
    """The logits of the next token, (B, V), and what the model needs to go on after it."""

    logits: Tensor
    state: Any


class TrainedModel(nn.Module, ABC):
    """A model that the trainer trains: all of its parameters that have gradients.

    loss_weights: of texts, of words in no order, and of ratings; each loss is a mean over `counts`.
    num_phases: how often the training begins anew with other parameters (`begin_phase`).
    """

    loss_weights: tuple[float, float, float] = (1.0, 0.0, 0.0)
    num_phases: int = 1

    def begin_phase(self, phase: int) -> None:
        """Let the parameters of phase 0 to num_phases - 1 have gradients, and no others."""
        assert phase == 0

    @abstractmethod
    def forward(self, batch: Any) -> Tensor:
        """The sums of the three losses over the batch, (3,): nats, nats, squared ratings."""


class Writer(TrainedModel):
    """A model that writes a text for a user and an item, token by token."""

    @abstractmethod
    def first(self, pairs: Pairs) -> Step:
        """The logits of the first token of each text."""

    @abstractmethod
    def next(self, step: Step, token_ids: Tensor) -> Step:
        """The logits after `token_ids` (B,) int64, which followed those of `step`."""


@torch.inference_mode()
def write_greedily(
    model: Writer,
    pairs: Pairs,
    *,
    end_ids: Collection[int],
    never_written: Collection[int],
    max_tokens: int,
) -> list[list[int]]:
    """The likeliest next token, again and again, for each of B pairs.

    A text ends with one of `end_ids`, which stands at its end, or after `max_tokens` without one.
    Tokens in `never_written` are passed over. A text does not depend on the pairs beside it.
    """
    device = pairs.users.device
    ends = torch.tensor(list(end_ids), device=device)
    barred = torch.tensor(list(never_written), dtype=torch.int64, device=device)
    step = model.first(pairs)
    written: list[Tensor] = []
    ended = torch.zeros(len(pairs.users), dtype=torch.bool, device=device)
    for place in range(max_tokens + 1):  # the end is one more
        if place:
            step = model.next(step, written[-1])
        token_ids = step.logits.index_fill(1, barred, -torch.inf).argmax(dim=1)
        written.append(token_ids)
        ended |= torch.isin(token_ids, ends)
        if bool(ended.all()):
            break
    rows = torch.stack(written, dim=1).tolist()  # (B, T)
    return [_cut(row, set(end_ids), max_tokens) for row in rows]


def _cut(row: list[int], end_ids: set[int], max_tokens: int) -> list[int]:
    for place, token_id in enumerate(row):
        if token_id in end_ids:
            return row[: place + 1]
    return row[:max_tokens]


def losses(
    batch: TextBatch, logits: Tensor, context: Tensor | None = None, rating: Tensor | None = None
) -> Tensor:
    """The sums of a Writer's losses, (3,); a model without one of them has 0 there.

    logits: (B, T, V) of the texts. context: the NLL of words in no order. rating: (B,), of which
    those count whose rating is known.
    """
    text = label_nll(logits, batch.labels).sum()
    errors = text.new_zeros(())
    if rating is not None:
        known = ~batch.ratings.isnan()
        errors = (rating[known] - batch.ratings[known]).square().sum()
    return torch.stack([text, text.new_zeros(()) if context is None else context, errors])


@torch.no_grad()
def load_parameters(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set the parameters of these names; parameters that share a tensor have one name."""
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        parameters[name].copy_(tensor)


def uniform_(module: nn.Module, bound: float) -> None:
    """Draw a module's weights from [-bound, bound]; its bias becomes zero."""
    assert isinstance(module, nn.Embedding | nn.Linear)
    nn.init.uniform_(module.weight, -bound, bound)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
