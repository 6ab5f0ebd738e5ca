"""Words that a text shares with its reference: ROUGE, and BLEU of one sentence; and its length."""

from collections.abc import Mapping

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.lab.measures.measure import SHARE, Floats, MetricInfo

_ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}


class Overlap:
    """ROUGE-1, -2 and -L (F1, 0 to 1, no stemming), BLEU of the pair (0 to 100), and words.

    rouge-score's words are runs of a-z and 0-9: a text in another script scores 0. BLEU of one
    sentence leaves out orders of n-grams that it is too short for (sacrebleu, `effective_order`).
    """

    infos = (
        MetricInfo(
            "coverage",
            "Coverage",
            "higher",
            "Share of pairs with a text. The others count as empty texts in all other metrics.",
            bounds=SHARE,
        ),
        MetricInfo("words", "Words, mean", None, "Length of the texts, empty ones included.", 1),
        MetricInfo(
            "rouge_1", "ROUGE-1 F1", "higher", "Words shared with the reference.", bounds=SHARE
        ),
        MetricInfo(
            "rouge_2",
            "ROUGE-2 F1",
            "higher",
            "Pairs of words shared with the reference.",
            bounds=SHARE,
        ),
        MetricInfo(
            "rouge_l",
            "ROUGE-L F1",
            "higher",
            "Longest common subsequence of words; mean of pairs.",
            bounds=SHARE,
        ),
        MetricInfo(
            "bleu_sentence",
            "BLEU of each pair, 0 to 100",
            "higher",
            "Shared word sequences of up to four words, pair by pair.",
            2,
            bounds=(0.0, 100.0),
        ),
    )

    def __init__(self) -> None:
        self._rouge = RougeScorer(list(_ROUGE.values()))
        self._bleu = BLEU(effective_order=True)

    def of_pairs(self, texts: ContestantTexts) -> Mapping[str, Floats]:
        """See PairMeasure."""
        rouge = [
            self._rouge.score(reference, text)
            for text, reference in zip(texts.texts, texts.references, strict=True)
        ]
        bleu = [
            self._bleu.sentence_score(text, [reference]).score
            for text, reference in zip(texts.texts, texts.references, strict=True)
        ]
        return {
            "coverage": texts.has_text.astype(np.float64),
            "words": np.array([len(text.split()) for text in texts.texts], dtype=np.float64),
            **{
                name: np.array([found[theirs].fmeasure for found in rouge], dtype=np.float64)
                for name, theirs in _ROUGE.items()
            },
            "bleu_sentence": np.array(bleu, dtype=np.float64),
        }
