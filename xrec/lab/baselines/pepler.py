"""PEPLER: a vector of the user and one of the item in front of a language model.

    [u, i, w_1 .. w_T] through the language model, which predicts w_1 at i, w_2 at w_1, ...

Sequential tuning: first the two tables of vectors are trained, while the language model is frozen;
then everything is. Li, Zhang, Chen: Personalized Prompt Learning for Explainable Recommendation,
TOIS 2023: the continuous prompt.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from xrec.lab.baselines.writer import TextBatch, Writer, draw_uniformly, ended
from xrec.llm.loss import label_nll


class PEPLER(Writer):
    """The model for U users and I items around a causal language model of hidden size H.

    end_id: the token that ends a text.
    """

    num_phases = 2

    def __init__(
        self, language_model: PreTrainedModel, end_id: int, *, num_users: int, num_items: int
    ):
        size = language_model.get_input_embeddings().weight.shape[1]
        super().__init__(num_users, num_items, size)
        self.language_model, self._end_id = language_model.float(), end_id
        draw_uniformly(0.1, self.users, self.items)

    def begin_phase(self, phase: int) -> None:
        """See Writer: the tables alone, then everything."""
        self.requires_grad_(True)
        self.language_model.requires_grad_(phase > 0)

    def vectors(self, pairs: TextBatch, token_ids: Tensor) -> Tensor:
        """Return what the language model reads: user, item and S words, (B, 2 + S, H)."""
        words: Tensor = self.language_model.get_input_embeddings()(token_ids)
        return torch.cat([self.pair_vectors(pairs), words], dim=1)

    def forward(self, batch: TextBatch) -> Tensor:
        """See Writer."""
        # Padding follows the texts, and no position attends to later ones, so no mask is needed.
        read = self.vectors(batch, batch.labels[:, :-1].clamp_min(0))
        logits = self.language_model(inputs_embeds=read, use_cache=False).logits
        return label_nll(logits[:, 1:], batch.labels).sum()[None]

    @torch.inference_mode()
    def write(self, pairs: TextBatch, max_words: int) -> list[list[int]]:
        """See Writer."""
        read = self.vectors(pairs, pairs.users.new_empty(len(pairs.users), 0))
        written: Tensor = self.language_model.generate(
            inputs_embeds=read,
            attention_mask=torch.ones(read.shape[:2], dtype=torch.int64, device=read.device),
            max_new_tokens=max_words + 1,
            do_sample=False,
            eos_token_id=self._end_id,
            pad_token_id=self._end_id,
        )
        return ended(written, self._end_id, max_words)
