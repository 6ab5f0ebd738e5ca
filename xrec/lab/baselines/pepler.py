"""PEPLER: two vectors before a language model, one of the user and one of the item.

    [u, i, w_1 .. w_T] through the language model;  it writes w_1 at i, and so on
    phase 0 trains the two tables of vectors, the language model is frozen; phase 1 trains all

Li, Zhang, Chen: Personalized Prompt Learning for Explainable Recommendation, TOIS 2023: the
continuous prompt with sequential tuning.
"""

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from xrec.lab.baselines.model import Pairs, Step, TextBatch, Writer, losses, uniform_


class PEPLER(Writer):
    """The model for U users and I items around a causal language model of hidden size H."""

    num_phases = 2

    def __init__(self, language_model: PreTrainedModel, *, num_users: int, num_items: int):
        super().__init__()
        size = language_model.get_input_embeddings().weight.shape[1]
        self.users = nn.Embedding(num_users, size)
        self.items = nn.Embedding(num_items, size)
        self.language_model = language_model
        for table in (self.users, self.items):
            uniform_(table, 0.1)

    def begin_phase(self, phase: int) -> None:
        """See TrainedModel: at first the two tables alone; then everything."""
        assert phase < self.num_phases
        self.requires_grad_(True)
        if phase == 0:
            self.language_model.requires_grad_(False)

    def joined(self, pairs: Pairs, token_ids: Tensor) -> Tensor:
        """What the language model reads: user, item and the vectors of words, (B, 2 + T, H)."""
        words = self.language_model.get_input_embeddings()(token_ids)
        both = torch.stack([self.users(pairs.users), self.items(pairs.items)], dim=1)
        return torch.cat([both, words], dim=1)

    def forward(self, batch: TextBatch) -> Tensor:
        """See TrainedModel."""
        # Padding stands behind the texts, and no place sees what comes after it.
        read = self.joined(batch.pairs, batch.token_ids[:, :-1])
        logits = self.language_model(inputs_embeds=read, use_cache=False).logits
        return losses(batch, logits[:, 1:])

    def first(self, pairs: Pairs) -> Step:
        """See Writer."""
        cache = DynamicCache(config=self.language_model.config)
        return self._step(self.joined(pairs, pairs.users.new_empty(len(pairs.users), 0)), cache)

    def next(self, step: Step, token_ids: Tensor) -> Step:
        """See Writer."""
        words = self.language_model.get_input_embeddings()(token_ids[:, None])
        return self._step(words, step.state)

    def _step(self, read: Tensor, cache: DynamicCache) -> Step:
        """The logits after the vectors (B, S, H), which follow those of `cache` and go into it."""
        found = self.language_model(inputs_embeds=read, cache=cache, use_cache=True)
        return Step(found.logits[:, -1], cache)
