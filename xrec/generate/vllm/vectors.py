"""The vectors of users and items by token id, computed without looking at what the ids are.

`CollaborativeEmbedding.adapt` (xrec.llm.collaborative) gives the same vectors, but it sorts ids
into users and items, and for that the host must read them. Here every id goes through both
adapters, and `torch.where` picks the right one. So a GPU is never waited for.

Each collaborative token has a second id, above all others: `without_injection` turns the first ids
into the second. The vector of a second id is the same, but it enters by the input embedding only
and not by the layers. Because it is another id, vLLM's prefix cache keeps the two apart.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from xrec.llm.collaborative import Vocabulary


def without_injection(prompt: Sequence[int], vocabulary: Vocabulary) -> list[int]:
    """`prompt` with the second id of each collaborative token."""
    first, last = vocabulary.num_text_tokens, vocabulary.num_ids
    return [token + last - first if token >= first else token for token in prompt]


def users_in(prompt: Sequence[int], vocabulary: Vocabulary) -> list[int]:
    """The indices of the users whose tokens are in `prompt`, in ascending order."""
    entities = {
        (token - vocabulary.num_text_tokens) % vocabulary.num_entities
        for token in prompt
        if token >= vocabulary.num_text_tokens
    }
    return sorted(entity for entity in entities if entity < vocabulary.num_users)


class CollaborativeVectors(nn.Module):
    """The adapters, and the tables of `vocabulary`'s users (U, D) and items (I, D).

    The tables stay in the host's memory and are neither parameters nor buffers; only the rows that
    are asked for move to the adapters' device.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        users: Tensor,
        items: Tensor,
        user_adapter: nn.Module,
        item_adapter: nn.Module,
    ):
        super().__init__()
        self.vocabulary = vocabulary
        self.user_adapter = user_adapter
        self.item_adapter = item_adapter
        self._tables = (users, items)

    @property
    def num_text_tokens(self) -> int:
        """The number of ids that are text."""
        return self.vocabulary.num_text_tokens

    def is_collaborative(self, token_ids: Tensor) -> Tensor:
        """Whether each of `token_ids` (N,) is a user or an item; (N,) bool."""
        return token_ids >= self.vocabulary.num_text_tokens

    def is_injected(self, token_ids: Tensor) -> Tensor:
        """Whether each of `token_ids` (N,) adds its vector in the layers; (N,) bool."""
        return self.is_collaborative(token_ids) & (token_ids < self.vocabulary.num_ids)

    def forward(self, token_ids: Tensor) -> Tensor:
        """The adapted vectors (N, H) of `token_ids` (N,), which are in the host's memory.

        The result is on the adapters' device. The row of a text token has no meaning.
        """
        vocabulary = self.vocabulary
        place = (token_ids.long() - vocabulary.num_text_tokens).clamp(min=0) % (
            vocabulary.num_tokens * vocabulary.num_entities
        )
        number, entity = place // vocabulary.num_entities, place % vocabulary.num_entities
        user = entity.clamp(max=vocabulary.num_users - 1)
        item = (entity - vocabulary.num_users).clamp(min=0)
        both = torch.where(
            self._to_device(entity < vocabulary.num_users)[:, None],
            self.user_adapter(self._to_device(self._tables[0][user])),
            self.item_adapter(self._to_device(self._tables[1][item])),
        )
        # (N, k H): the vectors of all k tokens of each id's user or item. Each id picks its part.
        of_tokens = both.unflatten(-1, (vocabulary.num_tokens, -1))
        rows = torch.arange(len(of_tokens), device=of_tokens.device)
        picked: Tensor = of_tokens[rows, self._to_device(number)]
        return picked

    def _to_device(self, values: Tensor) -> Tensor:
        device = next(self.user_adapter.parameters()).device
        return values.to(device, non_blocking=True)
