"""Att2Seq: an LSTM that starts from the attributes of a pair and attends to them at each word.

    g_k = W_k a_k                      for the attributes k: user, item, rating
    h_0 = tanh(W [g_1; g_2; g_3] + b), a part for each layer;  c_0 = 0
    s_tk = softmax over k of tanh(v . [h_t; g_k]);  h'_t = tanh(W_c sum_k s_tk g_k + W_h h_t)
    p(w_t | w_<t) = softmax(V h'_t + d)

Dong, Huang, Wei, Lapata, Zhou, Xu: Learning to Generate Product Reviews from Attributes, EACL 2017.
The dataset has no stars, and only liked items are explained, so the rating is the same for all
pairs.
"""

import torch
from torch import Tensor, nn

from xrec.lab.baselines.writer import TextBatch, Writer, draw_uniformly


class Att2Seq(Writer):
    """The model for U users, I items and V tokens."""

    def __init__(
        self,
        *,
        num_users: int,
        num_items: int,
        num_tokens: int,
        embedding_dim: int = 64,
        hidden_size: int = 512,
        num_layers: int = 2,
        dropout: float = 0.2,
    ):
        super().__init__(num_users, num_items, embedding_dim)
        size = hidden_size
        self._num_layers = num_layers
        # W_k a_k of a one-hot attribute is a row of a table.
        self.ratings = nn.Embedding(1, embedding_dim)
        self.encoder = nn.Linear(3 * embedding_dim, num_layers * size)
        self.words = nn.Embedding(num_tokens, size)
        self.lstm = nn.LSTM(size, size, num_layers, dropout=dropout, batch_first=True)
        self.score = nn.Linear(size + embedding_dim, 1, bias=False)
        self.mix = nn.Linear(embedding_dim + size, size, bias=False)  # [W_c, W_h]
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(size, num_tokens)
        draw_uniformly(0.08, self.users, self.items, self.ratings, self.encoder)
        draw_uniformly(0.08, self.words, self.output)

    def logits(self, pairs: TextBatch, token_ids: Tensor) -> Tensor:
        """See Writer."""
        ratings = self.ratings(torch.zeros_like(pairs.users))[:, None]
        attributes = torch.cat([self.pair_vectors(pairs), ratings], dim=1)  # (B, 3, D)
        flat = torch.tanh(self.encoder(attributes.flatten(1)))  # (B, L H)
        first = flat.unflatten(1, (self._num_layers, -1)).transpose(0, 1).contiguous()
        hidden, _ = self.lstm(self.words(token_ids), (first, torch.zeros_like(first)))
        length = hidden.shape[1]
        both = torch.cat(
            [
                hidden[:, :, None].expand(-1, -1, 3, -1),
                attributes[:, None].expand(-1, length, -1, -1),
            ],
            dim=-1,
        )  # (B, S, 3, H + D)
        weights = torch.tanh(self.score(both)).softmax(dim=2)  # (B, S, 3, 1)
        context = (weights * attributes[:, None]).sum(dim=2)  # (B, S, D)
        mixed = torch.tanh(self.mix(torch.cat([context, hidden], dim=-1)))
        logits: Tensor = self.output(self.dropout(mixed))
        return logits
