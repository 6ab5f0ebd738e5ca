"""Metrics of the generated texts alone and against their references, on the field's own libraries.

None of them knows of users: a text that is the same for everyone can score well here. They say how
the texts read; whether the collaborative signal arrives is for the NLL gain and the aspects.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU


def corpus_bleu(explanations: Sequence[str], references: Sequence[str]) -> float:
    """BLEU of the whole corpus, 0 to 100, with one reference for each text.

    These are sacrebleu's defaults: 13a tokens, exponential smoothing (arXiv 1804.08771).
    """
    _check_lengths(explanations, references)
    return float(BLEU().corpus_score(list(explanations), [list(references)]).score)


def rouge_l(explanations: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """(N,) F1 of the longest common subsequence of words, 0 to 1 (Lin 2004), without stemming.

    That library's words are runs of a-z and 0-9: text in other scripts scores 0.
    """
    _check_lengths(explanations, references)
    scorer = RougeScorer(["rougeL"])
    return np.array(
        [
            scorer.score(reference, text)["rougeL"].fmeasure
            for text, reference in zip(explanations, references, strict=True)
        ]
    )


def unique_sentence_ratio(texts: Sequence[str]) -> float:
    """Distinct texts over all texts, 0 to 1 (USR of NETE, Li et al. 2020). At 1 all differ."""
    _check_not_empty(texts)
    return len(set(texts)) / len(texts)


def num_words(texts: Sequence[str]) -> NDArray[np.int64]:
    """(N,) whitespace-separated words of each text."""
    return np.array([len(text.split()) for text in texts], dtype=np.int64)


def share_over(texts: Sequence[str], max_words: int) -> float:
    """Share of texts with more than `max_words` words."""
    _check_not_empty(texts)
    return float(np.mean(num_words(texts) > max_words))


def empty_share(texts: Sequence[str]) -> float:
    """Share of texts that are empty or only whitespace."""
    _check_not_empty(texts)
    return float(np.mean(num_words(texts) == 0))


def _check_lengths(explanations: Sequence[str], references: Sequence[str]) -> None:
    _check_not_empty(explanations)
    if len(explanations) != len(references):
        raise ValueError(
            f"{len(explanations)} explanations and {len(references)} references; expected one "
            "reference for each explanation"
        )


def _check_not_empty(texts: Sequence[str]) -> None:
    if not texts:
        raise ValueError("no texts; expected at least one")
