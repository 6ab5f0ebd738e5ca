"""NRT: a rating from the factors of user and item, and a GRU that starts from both and the rating.

    r = w . x_4 + b,  x_0 = [u; i],  x_l = sigmoid(W_l x_{l-1} + b_l)
    h_0 = tanh(W [u; i; one-hot(r)] + b);  p(w_t | w_<t) = softmax(V h_t + d)
    loss = NLL of the words + (r - rating)^2

Li, Wang, Ren, Bing, Lam: Neural Rating Regression with Abstractive Tips Generation for
Recommendation, SIGIR 2017, as in the public code: without the loss of whole reviews, and without
L2. The dataset has no stars: the rating is 1 for the pair, and 0 for the user with a drawn item.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from xrec.lab.baselines.writer import TextBatch, Writer, draw_uniformly
from xrec.llm.loss import label_nll


class NRT(Writer):
    """The model for U users, I items and V tokens."""

    loss_weights = (1.0, 1.0)

    def __init__(
        self,
        *,
        num_users: int,
        num_items: int,
        num_tokens: int,
        embedding_dim: int = 300,
        hidden_size: int = 400,
        num_rating_layers: int = 4,
    ):
        super().__init__(num_users, num_items, embedding_dim)
        both = 2 * embedding_dim
        # As in the public code, `num_rating_layers` follow the first layer.
        sizes = [both, *[hidden_size] * (num_rating_layers + 1)]
        self.hidden = nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:]))
        self.rating = nn.Linear(hidden_size, 1)
        self.encoder = nn.Linear(both + 2, hidden_size)
        self.words = nn.Embedding(num_tokens, embedding_dim)
        self.gru = nn.GRU(embedding_dim, hidden_size, batch_first=True)
        self.output = nn.Linear(hidden_size, num_tokens)
        for layer in self.hidden:
            assert isinstance(layer, nn.Linear)
            draw_uniformly(0.1, layer)
        draw_uniformly(0.1, self.users, self.items, self.rating)
        draw_uniformly(0.1, self.encoder, self.words, self.output)

    def predicted(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the ratings (B,) of users and items (B,)."""
        x = torch.cat([self.users(users), self.items(items)], dim=1)
        for layer in self.hidden:
            x = torch.sigmoid(layer(x))
        rating: Tensor = self.rating(x)[:, 0]
        return rating

    def forward(self, batch: TextBatch) -> Tensor:
        """See Writer; the second loss is the squared error of 2B ratings."""
        nll = label_nll(self.logits(batch, batch.inputs), batch.labels).sum()
        drawn = torch.randint_like(batch.items, self.items.num_embeddings)
        errors = (self.predicted(batch.users, batch.items) - 1) ** 2
        errors = errors + self.predicted(batch.users, drawn) ** 2
        return torch.stack([nll, errors.sum()])

    def counts(self, batch: TextBatch) -> Tensor:
        """See Writer."""
        num_tokens = (batch.labels >= 0).sum()
        return torch.stack([num_tokens, num_tokens.new_tensor(2 * len(batch.users))]).float()

    def logits(self, pairs: TextBatch, token_ids: Tensor) -> Tensor:
        """See Writer."""
        rating = self.predicted(pairs.users, pairs.items)
        whole = one_hot(rating.detach().round().clamp(0, 1).long(), num_classes=2)
        read = torch.cat([self.pair_vectors(pairs).flatten(1), whole], dim=1)
        hidden, _ = self.gru(self.words(token_ids), torch.tanh(self.encoder(read))[None])
        logits: Tensor = self.output(hidden)
        return logits
