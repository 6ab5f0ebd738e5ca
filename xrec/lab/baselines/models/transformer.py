"""A layer of a transformer that can go on from what it has seen, and sines for places.

    x <- norm(x + dropout(attention(x)));   x <- norm(x + dropout(W_2 dropout(relu(W_1 x))))

Vaswani and others: Attention Is All You Need, 2017. It computes what torch's
`nn.TransformerEncoderLayer` does, which cannot keep keys and values.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

KeysValues = tuple[Tensor, Tensor]
"""The keys and the values of P places, (B, heads, P, D / heads) each."""


class Block(nn.Module):
    """One layer over vectors of length D."""

    def __init__(self, size: int, num_heads: int, feedforward_size: int, dropout: float):
        super().__init__()
        self._num_heads = num_heads
        self.attention_in = nn.Linear(size, 3 * size)  # queries, keys, values
        self.attention_out = nn.Linear(size, size)
        self.feedforward_in = nn.Linear(size, feedforward_size)
        self.feedforward_out = nn.Linear(feedforward_size, size)
        self.attention_norm = nn.LayerNorm(size)
        self.feedforward_norm = nn.LayerNorm(size)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.attention_in.weight)
        nn.init.zeros_(self.attention_in.bias)
        nn.init.zeros_(self.attention_out.bias)

    def forward(
        self, x: Tensor, sees: Tensor, before: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """The vectors after the layer, (B, S, D), with keys and values of all places.

        x: (B, S, D), of S places that follow the P ones of `before`. sees: (B, 1, S, P + S), True
        where a place takes part.
        """
        attended, keys_values = self._attend(x, sees, before)
        x = self.attention_norm(x + self.dropout(attended))
        inner = self.dropout(functional.relu(self.feedforward_in(x)))
        return self.feedforward_norm(x + self.dropout(self.feedforward_out(inner))), keys_values

    def _attend(
        self, x: Tensor, sees: Tensor, before: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        queries, keys, values = (
            part.unflatten(2, (self._num_heads, -1)).transpose(1, 2)
            for part in self.attention_in(x).chunk(3, dim=2)
        )
        if before is not None:
            keys = torch.cat([before[0], keys], dim=2)
            values = torch.cat([before[1], values], dim=2)
        attended = functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=sees,
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        return self.attention_out(attended.transpose(1, 2).flatten(2)), (keys, values)


def sines(length: int, size: int) -> Tensor:
    """What is added to the vector of each place: sin(p / 10000^(2k / D)) at 2k, cos at 2k + 1."""
    places = torch.arange(length)[:, None]
    rates = torch.exp(torch.arange(0, size, 2) * (-math.log(10000.0) / size))
    table = torch.zeros(length, size)
    table[:, 0::2] = torch.sin(places * rates)
    table[:, 1::2] = torch.cos(places * rates)[:, : size // 2]
    return table
