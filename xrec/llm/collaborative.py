"""Collaborative tokens: a user or an item is a token, or a few.

With V text tokens, U users and I items, user u is token id V + u and item i is token id V + U + i. With k tokens each
(`model.num_tokens`), what follows is repeated: token n of user u is V + n (U + I) + u, and of item i V + n (U + I) + U + i.
`CollaborativeEmbedding` stands in for the language model's input embedding: an id below V is looked up as ever,
an id from V on is looked up in the graph's table and sent through its adapter, a = adapter(table[id]) in R^H. Of k tokens each
has its own part of what the adapter gives.
It stands where the embedding's result stands: a factor that the embedding puts on its rows (sqrt(H) in Gemma) is not on a.
The same a enters q, k and v of every layer at that position (xrec.llm.injection). So a prompt is a list of token ids
and nothing else, for any generation engine, in any batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Vocabulary:
    """The ids of text tokens, users and items, one after the other; users and items `num_tokens` times."""

    num_text_tokens: int
    num_users: int
    num_items: int
    num_tokens: int = 1

    @property
    def num_entities(self) -> int:
        """Users and items."""
        return self.num_users + self.num_items

    @property
    def num_ids(self) -> int:
        """All ids: text tokens, and those of users and items."""
        return self.num_text_tokens + self.num_tokens * self.num_entities

    def user_tokens(self, user_index: int) -> list[int]:
        """Token ids of a user; ValueError if there is no such user."""
        if not 0 <= user_index < self.num_users:
            raise ValueError(f"user_index {user_index} is outside 0..{self.num_users - 1}")
        return self._tokens(user_index)

    def item_tokens(self, item_index: int) -> list[int]:
        """Token ids of an item; ValueError if there is no such item."""
        if not 0 <= item_index < self.num_items:
            raise ValueError(f"item_index {item_index} is outside 0..{self.num_items - 1}")
        return self._tokens(self.num_users + item_index)

    def show(self, token_id: int) -> str | None:
        """`<user 3>` or `<item 7>` for a collaborative token, None for a text token; each of several tokens shows itself."""
        if token_id < self.num_text_tokens:
            return None
        entity = (token_id - self.num_text_tokens) % self.num_entities
        return (
            f"<user {entity}>" if entity < self.num_users else f"<item {entity - self.num_users}>"
        )

    def _tokens(self, entity: int) -> list[int]:
        return [
            self.num_text_tokens + number * self.num_entities + entity
            for number in range(self.num_tokens)
        ]


class CollaborativeEmbedding(nn.Module):
    """Input embedding for text tokens and collaborative tokens.

    `user_vectors` (U, D) and `item_vectors` (I, D) stay where they are (CPU, memory-mapped): only the rows of a batch
    move to the model's device. They are neither parameters nor buffers, so no `.to()` and no checkpoint takes them along.
    """

    def __init__(
        self,
        token_embedding: nn.Embedding,
        user_vectors: Tensor,
        item_vectors: Tensor,
        user_adapter: nn.Module,
        item_adapter: nn.Module,
        num_tokens: int = 1,
    ):
        super().__init__()
        self.token_embedding = token_embedding
        self.user_adapter = user_adapter
        self.item_adapter = item_adapter
        self.vocabulary = Vocabulary(
            token_embedding.num_embeddings, len(user_vectors), len(item_vectors), num_tokens
        )
        self._vectors = (user_vectors, item_vectors)
        self.injection: Tensor | None = None
        """a at the collaborative positions of the latest input, zero elsewhere (B, S, H); None: it has none."""

    def forward(self, input_ids: Tensor) -> Tensor:
        """Token ids (B, S) to vectors (B, S, H); leaves `injection` for the layers' hooks."""
        is_collaborative = input_ids >= self.vocabulary.num_text_tokens
        if not is_collaborative.any():
            return self.embed_text(input_ids)
        return self.embed(input_ids, is_collaborative, self.adapt(input_ids[is_collaborative]))

    def embed_text(self, input_ids: Tensor) -> Tensor:
        """`forward` for ids that the caller knows to be text: looks at no id, so waits for no device."""
        self.injection = None
        embeds: Tensor = self.token_embedding(input_ids)
        return embeds

    def embed(self, input_ids: Tensor, is_collaborative: Tensor, adapted: Tensor) -> Tensor:
        """`forward` with the vectors (N, H) of the N collaborative ids (`is_collaborative`, (B, S) bool) computed before."""
        embeds: Tensor = self.token_embedding(input_ids.masked_fill(is_collaborative, 0))
        self.injection = torch.zeros_like(embeds).masked_scatter(
            is_collaborative[..., None], adapted.to(embeds.dtype)
        )
        return torch.where(is_collaborative[..., None], self.injection, embeds)

    def adapt(self, token_ids: Tensor) -> Tensor:
        """Adapted vectors (N, H) of collaborative token ids (N,); raises IndexError for an id beyond the last."""
        vocabulary = self.vocabulary
        if (token_ids >= vocabulary.num_ids).any():
            raise IndexError(
                f"token id {int(token_ids.max())} is beyond the last, {vocabulary.num_ids - 1}"
            )
        position = token_ids - vocabulary.num_text_tokens
        number, entity = position // vocabulary.num_entities, position % vocabulary.num_entities
        is_user = entity < vocabulary.num_users
        users = self.user_adapter(_rows(self._vectors[0], entity[is_user], token_ids.device))
        items = self.item_adapter(
            _rows(self._vectors[1], entity[~is_user] - vocabulary.num_users, token_ids.device)
        )
        adapted = users.new_empty(len(token_ids), users.shape[-1])
        filled = adapted.index_put((is_user,), users).index_put(
            (~is_user,), items
        )  # (N, k H): all tokens of each one's entity
        of_tokens: Tensor = filled.unflatten(-1, (vocabulary.num_tokens, -1))
        return of_tokens[torch.arange(len(number), device=number.device), number]


def _rows(table: Tensor, index: Tensor, device: torch.device) -> Tensor:
    return table[index.to(table.device)].to(device)
