"""PETER: a transformer over [u, i, words], whose first two positions attend to each other.

    S = [u, i, <bos>, w_1 .. w_T], each vector times sqrt(D), plus the position's sines
    a position attends to itself and to earlier ones, and u also to i
    text loss: softmax(V s_t + d) at <bos> and the words
    context loss: the same distribution at i, for all words of the text in any order

Li, Zhang, Chen: Personalized Transformer for Explainable Recommendation, ACL 2021, without the
rating at u.
"""

import math

import torch
from torch import Tensor, nn

from xrec.lab.baselines.writer import TextBatch, Writer, draw_uniformly
from xrec.llm.loss import label_nll

USER, ITEM, _BEGIN = range(3)
"""The positions of the user, the item and <bos>."""


def attends(length: int) -> Tensor:
    """Return whether position s attends to position t, (S, S) bool."""
    allowed = torch.ones(length, length, dtype=torch.bool).tril()
    allowed[USER, ITEM] = True
    return allowed


def sines(length: int, size: int) -> Tensor:
    """Return the position encoding (S, D): sin(p / 10000^(2k / D)) at 2k, cos at 2k + 1."""
    positions = torch.arange(length)[:, None]
    rates = torch.exp(torch.arange(0, size, 2) * (-math.log(10000.0) / size))
    table = torch.zeros(length, size)
    table[:, 0::2] = torch.sin(positions * rates)
    table[:, 1::2] = torch.cos(positions * rates)[:, : size // 2]
    return table


class PETER(Writer):
    """The model for U users, I items and V tokens.

    Its losses are the NLL of the texts, and that of their words in any order.
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
        super().__init__(num_users, num_items, embedding_dim)
        size = embedding_dim
        self.words = nn.Embedding(num_tokens, size)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(size, num_heads, feedforward_size, dropout, batch_first=True)
            for _ in range(num_layers)
        )
        self.output = nn.Linear(size, num_tokens)
        draw_uniformly(0.1, self.users, self.items, self.words, self.output)

    def forward(self, batch: TextBatch) -> Tensor:
        """See Writer."""
        hidden = self.hidden(batch, batch.inputs)
        nll = label_nll(self.output(hidden[:, _BEGIN:]), batch.labels).sum()
        return torch.stack([nll, self._context_nll(hidden[:, ITEM], batch.words)])

    def counts(self, batch: TextBatch) -> Tensor:
        """See Writer."""
        return torch.stack([(batch.labels >= 0).sum(), (batch.words >= 0).sum()]).float()

    def _context_nll(self, hidden: Tensor, words: Tensor) -> Tensor:
        """Return the NLL of all texts' words by one distribution per text; hidden is (B, D)."""
        log_probabilities = self.output(hidden).log_softmax(dim=1)  # (B, V)
        found = log_probabilities.gather(1, words.clamp_min(0))
        nll: Tensor = -(found * (words >= 0)).sum()
        return nll

    def logits(self, pairs: TextBatch, token_ids: Tensor) -> Tensor:
        """See Writer."""
        logits: Tensor = self.output(self.hidden(pairs, token_ids)[:, _BEGIN:])
        return logits

    def hidden(self, pairs: TextBatch, token_ids: Tensor) -> Tensor:
        """Return the last layer at the user, the item, and S tokens, (B, 2 + S, D)."""
        vectors = torch.cat([self.pair_vectors(pairs), self.words(token_ids)], dim=1)
        length, size = vectors.shape[1:]
        hidden: Tensor = self.dropout(vectors * math.sqrt(size) + sines(length, size).to(vectors))
        masked = ~attends(length).to(vectors.device)
        for layer in self.layers:
            hidden = layer(hidden, src_mask=masked)
        return hidden
