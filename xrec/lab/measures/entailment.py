"""How far one statement entails another, by a model of natural language inference (NLI).

Its sentences begin as those of Kabongo and Guigue's evaluation do (arXiv 2512.24366).
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from xrec.errors import ModelError
from xrec.evaluate.encoder import load_scoring_model
from xrec.lab.measures.measure import Floats
from xrec.lab.measures.statements import Statement

_COUPLES_AT_ONCE = 64
_LABEL = "entailment"
_SENTENCES = {
    "positive": ("The user would appreciate this item because", "good"),
    "negative": ("The user may dislike that", "bad"),
}


class EntailmentModel:
    """The probability of the label `entailment`; `StatementsMatched` matches by it.

    source: a local folder or a hub id. Raises ModelError if the model or the label is not there.
    """

    def __init__(self, source: str, *, device: str = "cpu", cache_dir: str | None = None) -> None:
        kind = AutoModelForSequenceClassification
        model, self._tokenizer = load_scoring_model(kind, source, cache_dir)
        labels = [str(label).lower() for _, label in sorted(model.config.id2label.items())]
        if _LABEL not in labels:
            raise ModelError(
                f"metrics.entailment: {source} has the labels {', '.join(labels)}, and none is "
                f"{_LABEL}; give a model of natural language inference, such as "
                "microsoft/deberta-large-mnli, or null"
            )
        self._model, self._label = model.to(device).eval(), labels.index(_LABEL)

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
    """A sentence of the statement, with its opinion where there is one."""
    beginning, opinion = _SENTENCES[statement.sentiment]
    return f"{beginning} its {statement.aspect} is {statement.opinion or opinion}."
