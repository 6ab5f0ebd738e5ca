"""PETER: a transformer over [u, i, aspects, words], whose first two places see each other.

    S = [u, i, a_1 .. a_A, <bos>, w_1 .. w_T], each vector times sqrt(D), plus sines of its place
    a place sees those before it and itself, and u sees i too
    text: softmax(V s_t + d) at <bos> and the words;  context: the same at i, for all words of the
    text in no order;  rating: an MLP at u

Li, Zhang, Chen: Personalized Transformer for Explainable Recommendation, ACL 2021. With aspects in
the input it is PETER+.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xrec.config.baselines import PETERConfig
from xrec.lab.baselines.models.peer import (
    Pairs,
    Peer,
    PeerBatch,
    Ratings,
    Step,
    squared_errors,
    sums,
    text_nll,
    uniform_,
)
from xrec.lab.baselines.models.transformer import Block, KeysValues, sines
from xrec.lab.baselines.words import PAD

USER, ITEM = 0, 1
"""The places of the user and the item."""


def may_see(length: int) -> Tensor:
    """Whether place s sees place t, (S, S): those before it and itself, and the user the item."""
    sees = torch.ones(length, length, dtype=torch.bool).tril()
    sees[USER, ITEM] = True
    return sees


@dataclass(frozen=True)
class State:
    """What was computed of the places so far.

    layers: keys and values of each layer. is_there: (B, P), False for an aspect that is none.
    """

    layers: Sequence[KeysValues]
    is_there: Tensor


class PETER(Peer):
    """The model for U users, I items and V tokens, with `num_aspect_words` places for aspects."""

    def __init__(
        self,
        config: PETERConfig,
        *,
        num_users: int,
        num_items: int,
        num_tokens: int,
        begin_id: int,
        num_aspect_words: int = 0,
        ratings: Ratings | None = None,
    ):
        super().__init__()
        self.loss_weights = (1.0, config.context_weight, config.rating_weight)
        self._begin_id, self._begin_place = begin_id, 2 + num_aspect_words
        size = config.embedding_dim
        self.users = nn.Embedding(num_users, size)
        self.items = nn.Embedding(num_items, size)
        self.words = nn.Embedding(num_tokens, size)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(size, config.num_heads, config.feedforward_size, config.dropout)
            for _ in range(config.num_layers)
        )
        self.output = nn.Linear(size, num_tokens)
        self.rating_hidden = nn.Linear(size, size) if ratings is not None else None
        self.rating_output = nn.Linear(size, 1) if ratings is not None else None
        tables = (self.users, self.items, self.words, self.output)
        for module in (*tables, self.rating_hidden, self.rating_output):
            if module is not None:
                uniform_(module, 0.1)

    def forward(self, batch: PeerBatch) -> Tensor:
        """See Peer."""
        vectors, is_there = self._sources(batch.pairs)
        words = self.words(batch.inputs(self._begin_id))
        there = is_there.new_ones(words.shape[:2])
        is_there = torch.cat([is_there, there], dim=1)
        hidden, _ = self._hidden(torch.cat([vectors, words], dim=1), is_there)
        rating = self._rating(hidden[:, USER])
        return sums(
            text_nll(self.output(hidden[:, self._begin_place :]), batch),
            self._context_nll(hidden[:, ITEM], batch),
            None if rating is None else squared_errors(rating, batch),
        )

    def _context_nll(self, hidden: Tensor, batch: PeerBatch) -> Tensor:
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

    def _sources(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """The vectors of user, item and aspects, (B, 2 + A, D), and which of them are there."""
        vectors = [
            self.users(pairs.users)[:, None],
            self.items(pairs.items)[:, None],
            self.words(pairs.aspects),
        ]
        both = pairs.aspects.new_ones(len(pairs), 2, dtype=torch.bool)
        return torch.cat(vectors, dim=1), torch.cat([both, pairs.aspects != PAD], dim=1)

    def _hidden(
        self, vectors: Tensor, is_there: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """The last layer at S places that follow P ones of `state`: (B, S, D).

        is_there: (B, P + S).
        """
        length, num_new = is_there.shape[1], vectors.shape[1]
        first = length - num_new
        places = sines(length, vectors.shape[2]).to(vectors)[first:]
        hidden = self.dropout(vectors * math.sqrt(vectors.shape[2]) + places)
        sees = may_see(length).to(vectors.device)[first:] & is_there[:, None]  # (B, S, P + S)
        layers = []
        for number, block in enumerate(self.blocks):
            before = None if state is None else state.layers[number]
            hidden, keys_values = block(hidden, sees[:, None], before)
            layers.append(keys_values)
        return hidden, State(layers, is_there)

    def first(self, pairs: Pairs) -> Step:
        """See Peer."""
        vectors, is_there = self._sources(pairs)
        begin = torch.full_like(pairs.users, self._begin_id)
        return self._step(begin, vectors, is_there)

    def next(self, step: Step, token_ids: Tensor) -> Step:
        """See Peer."""
        state: State = step.state
        none = self.words(token_ids[:, None])[:, :0]
        return self._step(token_ids, none, state.is_there, state)

    def _step(
        self, token_ids: Tensor, before: Tensor, is_there: Tensor, state: State | None = None
    ) -> Step:
        """The logits after `token_ids` (B,), which follow the vectors `before` (B, S, D)."""
        vectors = torch.cat([before, self.words(token_ids)[:, None]], dim=1)
        is_there = torch.cat([is_there, is_there.new_ones(len(token_ids), 1)], dim=1)
        hidden, state = self._hidden(vectors, is_there, state)
        return Step(self.output(hidden[:, -1]), state)
