"""Metrics of texts: compared with their references, and by the planted aspects that they name.

The former ignore users: a text that is the same for everyone can score well. Aspects are planted
only in the sample. A text is correct if the only known aspect that it names is the one that the
user likes most among the item's aspects; listing all of them is wrong.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU


def corpus_bleu(explanations: Sequence[str], references: Sequence[str]) -> float:
    """Return BLEU of the whole corpus, 0 to 100, with one reference for each text.

    It uses sacrebleu's defaults: 13a tokens, exponential smoothing (arXiv 1804.08771).
    """
    return float(BLEU().corpus_score(list(explanations), [list(references)]).score)


def rouge_l(explanations: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """Return F1 (N,) of the longest common subsequence of words, 0 to 1 (Lin 2004), not stemmed.

    rouge_score's words are runs of a-z and 0-9, so text in other scripts scores 0.
    """
    from rouge_score.rouge_scorer import RougeScorer  # its nltk imports all of scipy.stats

    scorer = RougeScorer(["rougeL"])
    return np.array(
        [
            scorer.score(reference, text)["rougeL"].fmeasure
            for text, reference in zip(explanations, references, strict=True)
        ]
    )


def aspect_pattern(aspects: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that finds the phrases in any case and spacing, as whole words.

    If one phrase contains another, the longer one is found.
    """
    phrases = sorted(
        {_canonical(aspect) for aspect in aspects}, key=lambda each: (-len(each), each)
    )
    alternatives = "|".join(r"\s+".join(map(re.escape, phrase.split(" "))) for phrase in phrases)
    return re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)", re.IGNORECASE)


def named_aspects(text: str, pattern: re.Pattern[str]) -> set[str]:
    """Return the distinct aspects that `text` names (lowercase, single spaces)."""
    return {_canonical(match) for match in pattern.findall(text)}


def names_only(
    texts: Sequence[str], right: Sequence[str], pattern: re.Pattern[str]
) -> NDArray[np.bool_]:
    """Return whether each text names the right aspect and no other, (N,)."""
    return np.array(
        [
            named_aspects(text, pattern) == {_canonical(aspect)}
            for text, aspect in zip(texts, right, strict=True)
        ],
        dtype=np.bool_,
    )


def names_none_beside(
    texts: Sequence[str], aspects: Sequence[Sequence[str]], pattern: re.Pattern[str]
) -> NDArray[np.bool_]:
    """Return whether each text names no aspect except those of its item, (N,)."""
    return np.array(
        [
            named_aspects(text, pattern) <= {_canonical(aspect) for aspect in of_item}
            for text, of_item in zip(texts, aspects, strict=True)
        ],
        dtype=np.bool_,
    )


def _canonical(phrase: str) -> str:
    return " ".join(phrase.lower().split())
