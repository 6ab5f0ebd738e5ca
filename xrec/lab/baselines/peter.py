"""PETER: a transformer over [u, i, words], whose first two places see each other.

    S = [u, i, <bos>, w_1 .. w_T], each vector times sqrt(D), plus sines of its place
    a place sees those before it and itself, and u sees i too
    text: softmax(V s_t + d) at <bos> and the words;  context: the same at i, for all words of the
    text in no order

Li, Zhang, Chen: Personalized Transformer for Explainable Recommendation, ACL 2021, without the
rating at u.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xrec.lab.baselines.codec import BEGIN, END, PAD, UNKNOWN
from xrec.llm.loss import IGNORE, label_nll

USER, ITEM, _BEGIN_PLACE = range(3)
"""The places of the user, the item and <bos>."""


@dataclass(frozen=True)
class TextBatch:
    """B pairs, with what is to be written of them.

    users, items: (B,) int64, their indices.
    labels: (B, T) int64, the texts with their end tokens, and -100 behind them; T is 0 if the
        model is to write them.
    """

    users: Tensor
    items: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "TextBatch":
        """The same on `device`."""
        return TextBatch(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    @property
    def words(self) -> Tensor:
        """The labels without the end, and -100 elsewhere, (B, T)."""
        return self.labels.masked_fill(self.labels == END, IGNORE)

    @property
    def inputs(self) -> Tensor:
        """What stands before each label: <bos>, then all but the last one, (B, T)."""
        begin = self.labels.new_full((len(self.labels), 1), BEGIN)
        return torch.cat([begin, self.labels[:, :-1].clamp_min(PAD)], dim=1)


def may_see(length: int) -> Tensor:
    """Whether place s sees place t, (S, S): those before it and itself, and the user the item."""
    sees = torch.ones(length, length, dtype=torch.bool).tril()
    sees[USER, ITEM] = True
    return sees


def sines(length: int, size: int) -> Tensor:
    """What is added to the vector of each place: sin(p / 10000^(2k / D)) at 2k, cos at 2k + 1."""
    places = torch.arange(length)[:, None]
    rates = torch.exp(torch.arange(0, size, 2) * (-math.log(10000.0) / size))
    table = torch.zeros(length, size)
    table[:, 0::2] = torch.sin(places * rates)
    table[:, 1::2] = torch.cos(places * rates)[:, : size // 2]
    return table


class PETER(nn.Module):
    """The model for U users, I items and V tokens.

    Its losses are the NLL of the texts, and that of their words in no order.
    """

    loss_weights = (1.0, 1.0)

    def __init__(
        self,
        *,
        num_users: int,
        num_items: int,
        num_tokens: int,
        embedding_dim: int = 512,
        num_heads: int = 2,
        feedforward_size: int = 2048,
        num_layers: int = 2,
        dropout: float = 0.2,
    ):
        super().__init__()
        size = embedding_dim
        self.users = nn.Embedding(num_users, size)
        self.items = nn.Embedding(num_items, size)
        self.words = nn.Embedding(num_tokens, size)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(size, num_heads, feedforward_size, dropout, batch_first=True)
            for _ in range(num_layers)
        )
        self.output = nn.Linear(size, num_tokens)
        for module in (self.users, self.items, self.words, self.output):
            nn.init.uniform_(module.weight, -0.1, 0.1)
        nn.init.zeros_(self.output.bias)

    def forward(self, batch: TextBatch) -> Tensor:
        """The sums of both losses over the batch, (2,) nats."""
        hidden = self.hidden(batch, batch.inputs)
        nll = label_nll(self.output(hidden[:, _BEGIN_PLACE:]), batch.labels).sum()
        return torch.stack([nll, self._context_nll(hidden[:, ITEM], batch.words)])

    def counts(self, batch: TextBatch) -> Tensor:
        """How many tokens each of the losses is a sum of, (2,) float32."""
        return torch.stack([(batch.labels >= 0).sum(), (batch.words >= 0).sum()]).float()

    def _context_nll(self, hidden: Tensor, words: Tensor) -> Tensor:
        """The NLL of each text's words, in no order, from one distribution; hidden (B, D)."""
        log_probabilities = self.output(hidden).log_softmax(dim=1)  # (B, V)
        found = log_probabilities.gather(1, words.clamp_min(0))
        nll: Tensor = -(found * (words >= 0)).sum()
        return nll

    def hidden(self, pairs: TextBatch, token_ids: Tensor) -> Tensor:
        """The last layer at all places: user, item, and S tokens, (B, 2 + S, D)."""
        read = [self.users(pairs.users)[:, None], self.items(pairs.items)[:, None]]
        vectors = torch.cat([*read, self.words(token_ids)], dim=1)
        length, size = vectors.shape[1:]
        hidden: Tensor = self.dropout(vectors * math.sqrt(size) + sines(length, size).to(vectors))
        hides = ~may_see(length).to(vectors.device)
        for layer in self.layers:
            hidden = layer(hidden, src_mask=hides)
        return hidden

    @torch.inference_mode()
    def write(self, pairs: TextBatch, max_words: int) -> list[list[int]]:
        """The likeliest next token, again and again, for each of B pairs.

        A text ends with END, or after `max_words` without one; <pad>, <bos> and <unk> are passed
        over. The whole text is read again for each token, as in the public code. A text does not
        depend on the pairs beside it.
        """
        token_ids = torch.full_like(pairs.users, BEGIN)[:, None]
        while token_ids.shape[1] <= max_words + 1 and not bool((token_ids == END).any(1).all()):
            logits = self.next_logits(pairs, token_ids)
            logits[:, [PAD, BEGIN, UNKNOWN]] = -torch.inf
            token_ids = torch.cat([token_ids, logits.argmax(dim=1, keepdim=True)], dim=1)
        rows = token_ids[:, 1:].tolist()
        return [row[: row.index(END) + 1] if END in row else row[:max_words] for row in rows]

    def next_logits(self, pairs: TextBatch, token_ids: Tensor) -> Tensor:
        """The logits (B, V) of what follows the texts so far (B, T), which begin with <bos>."""
        logits: Tensor = self.output(self.hidden(pairs, token_ids)[:, -1])
        return logits
