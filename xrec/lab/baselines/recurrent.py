"""Two networks that write word by word from a first state, which is made of the user and the item.

Att2Seq (Dong, Huang, Wei, Lapata, Zhou, Xu: Learning to Generate Product Reviews from Attributes,
EACL 2017), an LSTM without the rating among the attributes, and without attention:

    h_0 = tanh(W [u; i] + b), a piece for each layer;    c_0 = 0
    p(w_t | w_<t, u, i) = softmax(V h_t + d)

NRT (Li, Wang, Ren, Bing, Lam: Neural Rating Regression with Abstractive Tips Generation for
Recommendation, SIGIR 2017), a GRU without L2 and without the loss of all words in no order:

    r = w h_4 + b,  h_1 = sigmoid(W_1 [u; i] + b_1),  h_l = sigmoid(W_l h_{l-1} + b_l)
    h_0 = tanh(W [u; i; one-hot(r)] + b)

Where no ratings are known there is neither r nor its one-hot.
"""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from xrec.lab.baselines.model import Pairs, Ratings, Step, TextBatch, Writer, losses, uniform_


class Recurrent(Writer):
    """A network over words, whose `rnn` goes on from `first_state`."""

    users: nn.Embedding
    items: nn.Embedding
    words: nn.Embedding
    output: nn.Linear
    begin_id: int

    @property
    @abstractmethod
    def rnn(self) -> nn.Module:
        """The network over vectors of words."""

    @abstractmethod
    def first_state(self, pairs: Pairs) -> tuple[Any, Tensor | None]:
        """The state before the begin token, and the ratings, (B,), if the model tells them."""

    def both(self, pairs: Pairs) -> Tensor:
        """The vectors of user and item side by side, (B, 2D)."""
        return torch.cat([self.users(pairs.users), self.items(pairs.items)], dim=1)

    def forward(self, batch: TextBatch) -> Tensor:
        """See TrainedModel."""
        state, rating = self.first_state(batch.pairs)
        logits, _ = self._logits(batch.inputs(self.begin_id), state)
        return losses(batch, logits, rating=rating)

    def first(self, pairs: Pairs) -> Step:
        """See Writer."""
        begin = torch.full_like(pairs.users, self.begin_id)
        return self._step(begin, self.first_state(pairs)[0])

    def next(self, step: Step, token_ids: Tensor) -> Step:
        """See Writer."""
        return self._step(token_ids, step.state)

    def _step(self, token_ids: Tensor, state: Any) -> Step:
        logits, state = self._logits(token_ids[:, None], state)
        return Step(logits[:, 0], state)

    def _logits(self, token_ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The logits after each of (B, T) tokens, (B, T, V), and the state after the last one."""
        hidden, state = self.rnn(self.words(token_ids), state)
        return self.output(hidden), state


class Att2Seq(Recurrent):
    """The model for U users, I items and V tokens, with L layers."""

    def __init__(
        self,
        *,
        num_users: int,
        num_items: int,
        num_tokens: int,
        begin_id: int,
        embedding_dim: int = 64,
        hidden_size: int = 512,
        num_layers: int = 2,
        dropout: float = 0.2,
    ):
        super().__init__()
        self._num_layers, self.begin_id = num_layers, begin_id
        self.users = nn.Embedding(num_users, embedding_dim)
        self.items = nn.Embedding(num_items, embedding_dim)
        self.encoder = nn.Linear(2 * embedding_dim, num_layers * hidden_size)
        self.words = nn.Embedding(num_tokens, hidden_size)
        between = dropout if num_layers > 1 else 0.0
        self.lstm = nn.LSTM(hidden_size, hidden_size, num_layers, dropout=between, batch_first=True)
        self.output = nn.Linear(hidden_size, num_tokens)
        for module in (self.users, self.items, self.encoder):
            uniform_(module, 0.1)
        for module in (self.words, self.output):
            uniform_(module, 0.08)

    @property
    def rnn(self) -> nn.Module:
        """See Recurrent."""
        return self.lstm

    def first_state(self, pairs: Pairs) -> tuple[tuple[Tensor, Tensor], None]:
        """The LSTM's h and c, (L, B, H) each; there is no rating."""
        flat = torch.tanh(self.encoder(self.both(pairs)))  # (B, L H)
        hidden = flat.unflatten(1, (self._num_layers, -1)).transpose(0, 1).contiguous()
        return (hidden, torch.zeros_like(hidden)), None


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


class NRT(Recurrent):
    """The model for U users, I items and V tokens; `ratings` is None where none are known."""

    def __init__(
        self,
        *,
        num_users: int,
        num_items: int,
        num_tokens: int,
        begin_id: int,
        ratings: Ratings | None = None,
        embedding_dim: int = 300,
        hidden_size: int = 400,
        num_rating_layers: int = 4,
        rating_weight: float = 1.0,
    ):
        super().__init__()
        self.loss_weights = (1.0, 0.0, rating_weight)
        self._ratings, self.begin_id = ratings, begin_id
        both = 2 * embedding_dim
        self.users = nn.Embedding(num_users, embedding_dim)
        self.items = nn.Embedding(num_items, embedding_dim)
        self.rating = RatingHead(both, hidden_size, num_rating_layers) if ratings else None
        self.encoder = nn.Linear(both + (ratings.count if ratings else 0), hidden_size)
        self.words = nn.Embedding(num_tokens, embedding_dim)
        self.gru = nn.GRU(embedding_dim, hidden_size, batch_first=True)
        self.output = nn.Linear(hidden_size, num_tokens)
        for module in (self.users, self.items, self.encoder, self.words, self.output):
            uniform_(module, 0.1)

    @property
    def rnn(self) -> nn.Module:
        """See Recurrent."""
        return self.gru

    def first_state(self, pairs: Pairs) -> tuple[Tensor, Tensor | None]:
        """The GRU's state, (1, B, H), and the ratings, (B,)."""
        both = self.both(pairs)
        if self.rating is None or self._ratings is None:
            return torch.tanh(self.encoder(both))[None], None
        rating = self.rating(both)
        read = torch.cat([both, self._ratings.one_hot(rating)], dim=1)
        return torch.tanh(self.encoder(read))[None], rating
