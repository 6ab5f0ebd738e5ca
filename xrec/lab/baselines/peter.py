"""PETER: a transformer over [u, i, aspects, words], whose first two places see each other.

    S = [u, i, a_1 .. a_A, <bos>, w_1 .. w_T], each vector times sqrt(D), plus sines of its place
    a place sees those before it and itself, and u sees i too
    text: softmax(V s_t + d) at <bos> and the words;  context: the same at i, for all words of the
    text in no order;  rating: an MLP at u

Li, Zhang, Chen: Personalized Transformer for Explainable Recommendation, ACL 2021. With aspects in
the input it is PETER+.
"""

import math

import torch
from torch import Tensor, nn

from xrec.lab.baselines.codec import PAD
from xrec.lab.baselines.model import Pairs, Ratings, Step, TextBatch, Writer, losses, uniform_

USER, ITEM = 0, 1
"""The places of the user and the item."""


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


class PETER(Writer):
    """The model for U users, I items and V tokens, with `num_aspect_words` places for aspects."""

    def __init__(
        self,
        *,
        num_users: int,
        num_items: int,
        num_tokens: int,
        begin_id: int,
        num_aspect_words: int = 0,
        ratings: Ratings | None = None,
        embedding_dim: int = 512,
        num_heads: int = 2,
        feedforward_size: int = 2048,
        num_layers: int = 2,
        dropout: float = 0.2,
        context_weight: float = 1.0,
        rating_weight: float = 0.1,
    ):
        super().__init__()
        self.loss_weights = (1.0, context_weight, rating_weight)
        self._begin_id, self._begin_place = begin_id, 2 + num_aspect_words
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
        self.rating_hidden = nn.Linear(size, size) if ratings is not None else None
        self.rating_output = nn.Linear(size, 1) if ratings is not None else None
        tables = (self.users, self.items, self.words, self.output)
        for module in (*tables, self.rating_hidden, self.rating_output):
            if module is not None:
                uniform_(module, 0.1)

    def forward(self, batch: TextBatch) -> Tensor:
        """See TrainedModel."""
        hidden = self.hidden(batch.pairs, batch.inputs(self._begin_id))
        logits = self.output(hidden[:, self._begin_place :])
        context = self._context_nll(hidden[:, ITEM], batch)
        return losses(batch, logits, context, self._rating(hidden[:, USER]))

    def _context_nll(self, hidden: Tensor, batch: TextBatch) -> Tensor:
        """The NLL of each text's words, in no order, from one distribution; hidden (B, D)."""
        log_probabilities = self.output(hidden).log_softmax(dim=1)  # (B, V)
        words = batch.words
        counted = words >= 0
        found = log_probabilities.gather(1, words.clamp_min(0))
        nll: Tensor = -(found * counted).sum()
        return nll

    def _rating(self, hidden: Tensor) -> Tensor | None:
        if self.rating_hidden is None or self.rating_output is None:
            return None
        rating: Tensor = self.rating_output(torch.sigmoid(self.rating_hidden(hidden)))[:, 0]
        return rating

    def hidden(self, pairs: Pairs, token_ids: Tensor) -> Tensor:
        """The last layer at all places: user, item, A aspects, and S tokens, (B, 2 + A + S, D)."""
        read = [self.users(pairs.users)[:, None], self.items(pairs.items)[:, None]]
        read += [self.words(pairs.aspects), self.words(token_ids)]
        vectors = torch.cat(read, dim=1)
        length, size = vectors.shape[1:]
        is_none = torch.zeros_like(vectors[:, :, 0], dtype=torch.bool)
        is_none[:, 2 : self._begin_place] = pairs.aspects == PAD
        hidden: Tensor = self.dropout(vectors * math.sqrt(size) + sines(length, size).to(vectors))
        hides = ~may_see(length).to(vectors.device)
        for layer in self.layers:
            hidden = layer(hidden, src_mask=hides, src_key_padding_mask=is_none)
        return hidden

    def first(self, pairs: Pairs) -> Step:
        """See Writer."""
        return self._step(pairs, torch.full_like(pairs.users, self._begin_id)[:, None])

    def next(self, step: Step, token_ids: Tensor) -> Step:
        """See Writer; the whole text is read again, as in the public code."""
        pairs, before = step.state
        return self._step(pairs, torch.cat([before, token_ids[:, None]], dim=1))

    def _step(self, pairs: Pairs, token_ids: Tensor) -> Step:
        return Step(self.output(self.hidden(pairs, token_ids)[:, -1]), (pairs, token_ids))
