"""Words that a text shares with its reference: ROUGE; and its length."""

from collections.abc import Mapping

import numpy as np

from xrec.evaluate.text_metrics import rouge_l
from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.lab.measures.measure import Floats, MetricInfo


class Overlap:
    """Coverage, words and ROUGE-L (F1, 0 to 1, no stemming)."""

    infos = (
        MetricInfo(
            "coverage",
            "Coverage",
            "higher",
            "Share of pairs with a text. The others count as empty texts in all other metrics.",
        ),
        MetricInfo("words", "Words, mean", None, "Length of the texts, empty ones included.", 1),
        MetricInfo(
            "rouge_l",
            "ROUGE-L F1",
            "higher",
            "Longest common subsequence of words; mean of pairs.",
        ),
    )

    def of_pairs(self, texts: ContestantTexts) -> Mapping[str, Floats]:
        """See PairMeasure."""
        return {
            "coverage": texts.has_text.astype(np.float64),
            "words": np.array([len(text.split()) for text in texts.texts], dtype=np.float64),
            "rouge_l": rouge_l(texts.texts, texts.references),
        }
