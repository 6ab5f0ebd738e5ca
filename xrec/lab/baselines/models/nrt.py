"""NRT: a rating from user and item, and a GRU whose first state is made of them and the rating.

    r = w h_4 + b,  h_1 = sigmoid(W_1 [u; i] + b_1),  h_l = sigmoid(W_l h_{l-1} + b_l)
    h_0 = tanh(W [u; i; one-hot(r)] + b)
    p(w_t | w_<t, u, i) = softmax(V h_t + d)

Li, Wang, Ren, Bing, Lam: Neural Rating Regression with Abstractive Tips Generation for
Recommendation, SIGIR 2017, without its loss of all words of the tip in no order. Where no ratings
are known there is neither r nor its one-hot.
"""

import torch
from torch import Tensor, nn

from xrec.config.baselines import NRTConfig
from xrec.lab.baselines.models.model import (
    Pairs,
    Ratings,
    Step,
    TextBatch,
    Writer,
    squared_errors,
    sums,
    text_nll,
    uniform_,
)


class RatingHead(nn.Module):
    """A rating from both vectors, by hidden layers with a sigmoid."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int):
        super().__init__()
        sizes = [input_size, *[hidden_size] * num_layers]
        self.hidden = nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:]))
        self.output = nn.Linear(hidden_size, 1)
        for layer in (*self.hidden, self.output):
            uniform_(layer, 0.1)

    def forward(self, both: Tensor) -> Tensor:
        """The ratings (B,) of [u; i] (B, 2D)."""
        for layer in self.hidden:
            both = torch.sigmoid(layer(both))
        rating: Tensor = self.output(both)[:, 0]
        return rating


class NRT(Writer):
    """The model for U users, I items and V tokens; `ratings` is None where none are known."""

    def __init__(
        self,
        config: NRTConfig,
        *,
        num_users: int,
        num_items: int,
        num_tokens: int,
        begin_id: int,
        ratings: Ratings | None = None,
    ):
        super().__init__()
        self.loss_weights = (1.0, 0.0, config.rating_weight)
        self._ratings, self._begin_id = ratings, begin_id
        both, size = 2 * config.embedding_dim, config.hidden_size
        self.users = nn.Embedding(num_users, config.embedding_dim)
        self.items = nn.Embedding(num_items, config.embedding_dim)
        self.rating = (
            RatingHead(both, size, config.num_rating_layers) if ratings is not None else None
        )
        self.encoder = nn.Linear(both + (ratings.count if ratings else 0), size)
        self.words = nn.Embedding(num_tokens, config.embedding_dim)
        self.gru = nn.GRU(config.embedding_dim, size, batch_first=True)
        self.output = nn.Linear(size, num_tokens)
        for module in (self.users, self.items, self.encoder, self.words, self.output):
            uniform_(module, 0.1)

    def first_state(self, pairs: Pairs) -> tuple[Tensor, Tensor | None]:
        """The GRU's state before the begin token, (1, B, H), and the ratings, (B,)."""
        both = torch.cat([self.users(pairs.users), self.items(pairs.items)], dim=1)  # (B, 2D)
        if self.rating is None or self._ratings is None:
            return torch.tanh(self.encoder(both))[None], None
        rating = self.rating(both)
        read = torch.cat([both, self._ratings.one_hot(rating)], dim=1)
        return torch.tanh(self.encoder(read))[None], rating

    def forward(self, batch: TextBatch) -> Tensor:
        """See Writer."""
        state, rating = self.first_state(batch.pairs)
        logits, _ = self._logits(batch.inputs(self._begin_id), state)
        errors = None if rating is None else squared_errors(rating, batch)
        return sums(text_nll(logits, batch), rating=errors)

    def first(self, pairs: Pairs) -> Step:
        """See Writer."""
        state, _ = self.first_state(pairs)
        return self._step(torch.full_like(pairs.users, self._begin_id), state)

    def next(self, step: Step, token_ids: Tensor) -> Step:
        """See Writer."""
        return self._step(token_ids, step.state)

    def _step(self, token_ids: Tensor, state: Tensor) -> Step:
        logits, state = self._logits(token_ids[:, None], state)
        return Step(logits[:, 0], state)

    def _logits(self, token_ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The logits after each of (B, T) tokens, (B, T, V), and the state after the last one."""
        hidden, state = self.gru(self.words(token_ids), state)
        return self.output(hidden), state
