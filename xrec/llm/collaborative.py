"""Collaborative tokens: a user or an item is one token ID of the prompt, or a few.

With V text tokens, U users, and I items, user u is token ID V + u and item i is token ID V + U + i.
With k tokens for each user and item (`model.num_tokens`), this block of IDs is repeated k times:
token n of user u is V + n (U + I) + u, and token n of item i is V + n (U + I) + U + i.

`CollaborativeEmbedding` replaces the language model's input embedding. IDs below V are looked up as
before. Other IDs are looked up in the graph's vectors and go through the adapter: a =
adapter(table[id]), a vector in R^H. With k tokens the adapter's output has k parts, one per token.
Some models scale the rows of their embedding (by sqrt(H) in Gemma), but a is not scaled.

The same a is also added to query, key, and value of every layer at that position
(xrec.llm.injection). So a prompt is a plain list of token IDs, which any generation engine can
batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Vocabulary:
    """Which token IDs are text, users, and items; each user and item has `num_tokens` IDs."""

    num_text_tokens: int
    num_users: int
    num_items: int
    num_tokens: int = 1

    @property
    def num_entities(self) -> int:
        """Number of users and items."""
        return self.num_users + self.num_items

    @property
    def num_ids(self) -> int:
        """Number of all token IDs: text, users, and items."""
        return self.num_text_tokens + self.num_tokens * self.num_entities

    def user_tokens(self, user_index: int) -> list[int]:
        """Return the token IDs of a user; raises ValueError for an index out of range."""
        if not 0 <= user_index < self.num_users:
            raise ValueError(f"user_index {user_index} is outside 0..{self.num_users - 1}")
        return self._tokens(user_index)

    def item_tokens(self, item_index: int) -> list[int]:
        """Return the token IDs of an item; raises ValueError for an index out of range."""
        if not 0 <= item_index < self.num_items:
            raise ValueError(f"item_index {item_index} is outside 0..{self.num_items - 1}")
        return self._tokens(self.num_users + item_index)

    def show(self, token_id: int) -> str | None:
        """Return `<user 3>` or `<item 7>` for a collaborative token, None for a text token."""
        if token_id < self.num_text_tokens:
            return None
        entity = (token_id - self.num_text_tokens) % self.num_entities
        if entity < self.num_users:
            return f"<user {entity}>"
        return f"<item {entity - self.num_users}>"

    def _tokens(self, entity: int) -> list[int]:
        return [
            self.num_text_tokens + number * self.num_entities + entity
            for number in range(self.num_tokens)
        ]


@dataclass(frozen=True)
class Lookup:
    """What the embedding of token IDs (B, S) needs, N of which are collaborative.

    text_ids: the IDs (B, S), 0 at collaborative tokens.
    positions: of the collaborative tokens among the B * S, ascending (N,).
    users, items: their graph vectors, (N_u, D) and (N_i, D), N_u + N_i = N.
    parts: for each collaborative token (N,), the row of its vector, if those of all k tokens of the
        N_u users and then of the N_i items are listed.
    """

    text_ids: Tensor
    positions: Tensor
    users: Tensor
    items: Tensor
    parts: Tensor

    def to(self, device: torch.device) -> "Lookup":
        """Return the lookup on `device`."""
        return Lookup(*(to_device(tensor, device) for tensor in vars(self).values()))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return `tensor` on `device`; the host does not wait for a copy to a GPU."""
    if device.type == "cuda" and tensor.device.type == "cpu" and torch.cuda.is_available():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type == "cuda")


class CollaborativeEmbedding(nn.Module):
    """The input embedding for text tokens and collaborative tokens.

    `user_vectors` (U, D) and `item_vectors` (I, D) stay in CPU memory or a mapped file; only the
    rows of a batch move to the model's device. They are neither parameters nor buffers.
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
        """For the latest input: a at collaborative tokens, zero at text tokens, (B, S, H).

        None if the latest input had no collaborative token.
        """

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return vectors (B, S, H) of token IDs (B, S), and set `injection` for the hooks.

        The IDs should be on the CPU: to look at those on a GPU, the host waits for it.
        """
        lookup = self.lookup(input_ids.cpu()).to(self.token_embedding.weight.device)
        adapted = self.adapt(lookup) if len(lookup.positions) else None
        return self.embed(lookup.text_ids, lookup.positions, adapted)

    def embed(self, text_ids: Tensor, positions: Tensor, adapted: Tensor | None) -> Tensor:
        """Do `forward` with the vectors `adapted` (N, H) of the N collaborative IDs, or None.

        text_ids, positions: as in `Lookup`.
        """
        embeds: Tensor = self.token_embedding(text_ids)
        self.injection = None
        if adapted is None:
            return embeds
        adapted = adapted.to(embeds.dtype)
        # Unlike with a mask, neither this nor its gradient waits for the device.
        self.injection, embeds = (
            each.flatten(0, 1).index_copy(0, positions, adapted).view(embeds.shape)
            for each in (torch.zeros_like(embeds), embeds)
        )
        return embeds

    def lookup(self, input_ids: Tensor) -> Lookup:
        """Return the lookup of token IDs (B, S), int64, on the CPU.

        Raises IndexError if an ID is beyond the vocabulary.
        """
        vocabulary = self.vocabulary
        if (input_ids >= vocabulary.num_ids).any():
            raise IndexError(
                f"token ID {int(input_ids.max())} is beyond the last, {vocabulary.num_ids - 1}"
            )
        is_collaborative = input_ids >= vocabulary.num_text_tokens
        positions = is_collaborative.flatten().nonzero()[:, 0]
        offsets = input_ids.flatten()[positions] - vocabulary.num_text_tokens
        number, entity = offsets // vocabulary.num_entities, offsets % vocabulary.num_entities
        is_user = entity < vocabulary.num_users
        users_first = torch.argsort((~is_user).long(), stable=True)
        return Lookup(
            input_ids.masked_fill(is_collaborative, 0),
            positions,
            self._vectors[0][entity[is_user]],
            self._vectors[1][entity[~is_user] - vocabulary.num_users],
            users_first.argsort() * vocabulary.num_tokens + number,
        )

    def adapt(self, lookup: Lookup) -> Tensor:
        """Return the adapted vectors (N, H) of the collaborative tokens."""
        # (N, k H): the vectors of all k tokens of each ID's user or item, from which it picks one.
        both = torch.cat([self.user_adapter(lookup.users), self.item_adapter(lookup.items)])
        of_tokens: Tensor = both.unflatten(-1, (self.vocabulary.num_tokens, -1)).flatten(0, 1)
        return of_tokens.index_select(0, lookup.parts)
