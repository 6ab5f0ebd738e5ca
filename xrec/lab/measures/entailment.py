"""How far one statement entails another, by a model of natural language inference (NLI).

Statements become sentences that begin as those of Kabongo and Guigue's evaluation do
(arXiv 2512.24366), and say the opinion where there is one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from xrec.errors import ModelError
from xrec.evaluate.encoder import load_scoring_model
from xrec.lab.measures.measure import Floats
from xrec.lab.measures.statements import Statement

_COUPLES_AT_ONCE = 64
_LABEL = "entailment"
_BEGINNINGS = {
    "positive": "The user would appreciate this item because",
    "negative": "The user may dislike that",
}


class EntailmentModel:
    """The probability of the label `entailment`; it is what `StatementsMatched` matches by."""

    def __init__(self, model: Any, tokenizer: Any, device: str = "cpu") -> None:
        self._model, self._tokenizer = model.to(device).eval(), tokenizer
        labels = [str(label).lower() for _, label in sorted(model.config.id2label.items())]
        if _LABEL not in labels:
            raise ModelError(
                f"metrics.entailment: the model has the labels {', '.join(labels)}, and none is "
                f"{_LABEL}; give one of natural language inference, such as "
                "microsoft/deberta-large-mnli, or null"
            )
        self._label = labels.index(_LABEL)

    @torch.inference_mode()
    def __call__(self, couples: Sequence[tuple[Statement, Statement]]) -> Floats:
        """P(the first of each two entails the second), (N,)."""
        found = []
        for start in range(0, len(couples), _COUPLES_AT_ONCE):
            columns = zip(*couples[start : start + _COUPLES_AT_ONCE], strict=True)
            sides = (list(map(sentence_of, column)) for column in columns)
            batch = self._tokenizer(*sides, padding=True, truncation=True, return_tensors="pt")
            logits = self._model(**batch.to(self._model.device)).logits  # (B, labels)
            found += logits.double().softmax(dim=-1)[:, self._label].tolist()
        return np.array(found, dtype=np.float64)


def sentence_of(statement: Statement) -> str:
    """A sentence of the statement, for a reader or a model."""
    aspect, sentiment, opinion = statement
    clause = opinion or ("good" if sentiment == "positive" else "bad")
    return f"{_BEGINNINGS[sentiment]} its {aspect} is {clause}."


def load_entailment(
    source: str, *, cache_dir: str | None = None, device: str = "cpu"
) -> EntailmentModel:
    """The model `source`, a local folder or a hub id; raises ModelError if it cannot be had."""
    model, tokenizer = load_scoring_model(AutoModelForSequenceClassification, source, cache_dir)
    return EntailmentModel(model, tokenizer, device)
