"""The adapted vectors of the users and items in the prompts at work, each computed once."""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from xrec.llm.collaborative import CollaborativeEmbedding

_ADAPTED_AT_ONCE = 4096


class AdaptedVectors:
    """Vectors by token id, for as long as a prompt with that id needs them.

    The same id may stand for another vector later (a new user of the endpoint takes the place of an
    earlier one), so none is kept longer. Without an `embedding` no prompt has users or items.
    """

    def __init__(self, embedding: CollaborativeEmbedding | None, device: torch.device):
        self._embedding, self._device = embedding, device
        self._num_text_tokens = embedding.vocabulary.num_text_tokens if embedding else 0
        self._num_prompts: Counter[int] = Counter()
        self._place_of: dict[int, int] = {}
        self._free: list[int] = []
        self._table: Tensor | None = None

    @torch.inference_mode()
    def keep(self, prompts: Iterable[Sequence[int]]) -> None:
        """Compute the vectors of prompts that are not here yet, and keep all of theirs."""
        if self._embedding is None:
            return
        for prompt in prompts:
            self._num_prompts.update(self._ids(prompt))
        new = sorted(self._num_prompts.keys() - self._place_of.keys())
        if new:
            parts = torch.tensor(new, device=self._device).split(_ADAPTED_AT_ONCE)
            self._put(new, torch.cat([self._embedding.adapt(part) for part in parts]))

    def drop(self, prompt: Sequence[int]) -> None:
        """A prompt that was kept needs its vectors no longer."""
        if self._embedding is None:
            return
        for token in self._ids(prompt):
            self._num_prompts[token] -= 1
            if not self._num_prompts[token]:
                del self._num_prompts[token]
                self._free.append(self._place_of.pop(token))

    def of(self, token_ids: Sequence[int]) -> Tensor:
        """The vectors (N, H) of ids that are kept, on the model's device."""
        assert self._table is not None
        places = torch.tensor([self._place_of[token] for token in token_ids])
        return self._table[places.to(self._device)]

    def _ids(self, prompt: Sequence[int]) -> set[int]:
        return {token for token in prompt if token >= self._num_text_tokens}

    def _put(self, token_ids: list[int], vectors: Tensor) -> None:
        missing = len(token_ids) - len(self._free)
        if missing > 0:
            size = 0 if self._table is None else len(self._table)
            added = vectors.new_empty(max(missing, size), vectors.shape[1])
            self._table = added if self._table is None else torch.cat([self._table, added])
            self._free += range(size, len(self._table))
        assert self._table is not None
        places = [self._free.pop() for _ in token_ids]
        self._table[torch.tensor(places).to(self._device)] = vectors
        self._place_of.update(zip(token_ids, places, strict=True))
