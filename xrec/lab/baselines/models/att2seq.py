"""Att2Seq: an LSTM whose first state is made of the user and the item.

    h_0 = tanh(W [u; i] + b), a piece for each layer;    c_0 = 0
    p(w_t | w_<t, u, i) = softmax(V h_t + d)

Dong, Huang, Wei, Lapata, Zhou, Xu: Learning to Generate Product Reviews from Attributes, EACL 2017,
without the rating among the attributes, and without attention.
"""

import torch
from torch import Tensor, nn

from xrec.config.baselines import Att2SeqConfig
from xrec.lab.baselines.models.model import Pairs, Step, TextBatch, Writer, sums, text_nll, uniform_

State = tuple[Tensor, Tensor]
"""The LSTM's h and c, (L, B, H) each."""


class Att2Seq(Writer):
    """The model for U users, I items and V tokens."""

    def __init__(
        self,
        config: Att2SeqConfig,
        *,
        num_users: int,
        num_items: int,
        num_tokens: int,
        begin_id: int,
    ):
        super().__init__()
        self._num_layers, self._begin_id = config.num_layers, begin_id
        size = config.hidden_size
        self.users = nn.Embedding(num_users, config.embedding_dim)
        self.items = nn.Embedding(num_items, config.embedding_dim)
        self.encoder = nn.Linear(2 * config.embedding_dim, config.num_layers * size)
        self.words = nn.Embedding(num_tokens, size)
        dropout = config.dropout if config.num_layers > 1 else 0.0  # it is between layers
        self.lstm = nn.LSTM(size, size, config.num_layers, dropout=dropout, batch_first=True)
        self.output = nn.Linear(size, num_tokens)
        for module in (self.users, self.items, self.encoder):
            uniform_(module, 0.1)
        for module in (self.words, self.output):
            uniform_(module, 0.08)

    def first_state(self, pairs: Pairs) -> State:
        """The LSTM's state before the begin token."""
        both = torch.cat([self.users(pairs.users), self.items(pairs.items)], dim=1)  # (B, 2D)
        flat = torch.tanh(self.encoder(both))  # (B, L H)
        hidden = flat.unflatten(1, (self._num_layers, -1)).transpose(0, 1).contiguous()
        return hidden, torch.zeros_like(hidden)

    def forward(self, batch: TextBatch) -> Tensor:
        """See Writer."""
        logits, _ = self._logits(batch.inputs(self._begin_id), self.first_state(batch.pairs))
        return sums(text_nll(logits, batch))

    def first(self, pairs: Pairs) -> Step:
        """See Writer."""
        begin = torch.full_like(pairs.users, self._begin_id)
        return self._step(begin, self.first_state(pairs))

    def next(self, step: Step, token_ids: Tensor) -> Step:
        """See Writer."""
        return self._step(token_ids, step.state)

    def _step(self, token_ids: Tensor, state: State) -> Step:
        logits, state = self._logits(token_ids[:, None], state)
        return Step(logits[:, 0], state)

    def _logits(self, token_ids: Tensor, state: State) -> tuple[Tensor, State]:
        """The logits after each of (B, T) tokens, (B, T, V), and the state after the last one."""
        hidden, state = self.lstm(self.words(token_ids), state)
        return self.output(hidden), state
