"""Measures of texts against their references, and of the planted aspects that they name.

The former ignore users: a text that is the same for everyone can score well. Aspects are planted
only in the sample. A text is right if the only known aspect that it names is the one that the user
likes most among the item's aspects; listing all of them is wrong.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU

from xrec.evaluate.measure import Measure, Metric, has_text

LIKENESS, FORM = "Are the texts like the references?", "How do the texts read?"
COVERAGE = Metric(
    "coverage",
    "Coverage",
    is_share=True,
    group="How many pairs have a text?",
    meaning="Share of pairs with a text. The others, whose text failed or was refused, count as "
    "empty texts in all other metrics.",
)
_OVERLAP = (
    COVERAGE,
    Metric("words", "Words, mean", 1, "", group=FORM, meaning="Length of the generated texts."),
    Metric(
        "rouge_l",
        "ROUGE-L F1",
        group=LIKENESS,
        meaning="Longest common subsequence of words; mean over all pairs.",
    ),
)
_CORPUS = (
    Metric(
        "bleu",
        "BLEU, 0 to 100",
        2,
        group=LIKENESS,
        meaning="Overlap of word sequences of up to four words, over the whole corpus.",
    ),
    Metric(
        "usr",
        "USR",
        group=FORM,
        meaning="Unique sentence ratio: distinct texts divided by all texts. 1: no two are alike.",
    ),
)


def overlap(references: Sequence[str]) -> Measure:
    """Measure coverage, words, and ROUGE-L F1 (0 to 1)."""
    return Measure(
        _OVERLAP,
        lambda: (
            lambda texts: (
                has_text(texts).astype(np.float64),
                np.array([len(text.split()) for text in texts], dtype=np.float64),
                rouge_l(texts, references),
            )
        ),
    )


def corpus(references: Sequence[str]) -> Measure:
    """Measure BLEU, and the USR of NETE (Li et al., CIKM 2020), of all texts together.

    Both depend on the number of texts: compare them for the same pairs only.
    """
    return Measure(
        _CORPUS,
        lambda: (
            lambda texts: (
                corpus_bleu(texts, references),
                len({tuple(text.split()) for text in texts}) / len(texts),
            )
        ),
    )


def corpus_bleu(texts: Sequence[str], references: Sequence[str]) -> float:
    """Return BLEU of the whole corpus, 0 to 100, with one reference for each text.

    It uses sacrebleu's defaults: 13a tokens, exponential smoothing (arXiv 1804.08771).
    """
    return float(BLEU().corpus_score(list(texts), [list(references)]).score)


def rouge_l(texts: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """Return F1 (N,) of the longest common subsequence of words, 0 to 1 (Lin 2004), not stemmed.

    rouge_score's words are runs of a-z and 0-9, so text in other scripts scores 0.
    """
    from rouge_score.rouge_scorer import RougeScorer  # its nltk imports all of scipy.stats

    scorer = RougeScorer(["rougeL"])
    return np.array(
        [
            scorer.score(reference, text)["rougeL"].fmeasure
            for text, reference in zip(texts, references, strict=True)
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
    texts: Sequence[str], right: Sequence[str | None], pattern: re.Pattern[str]
) -> NDArray[np.float64]:
    """Return whether each text names the right aspect and no other, (N,); NaN if there is none."""
    return np.array(
        [
            np.nan if aspect is None else named_aspects(text, pattern) == {_canonical(aspect)}
            for text, aspect in zip(texts, right, strict=True)
        ],
        dtype=np.float64,
    )


def names_none_beside(
    texts: Sequence[str], aspects: Sequence[Sequence[str] | None], pattern: re.Pattern[str]
) -> NDArray[np.float64]:
    """Return whether each text names no aspect except its item's, (N,); NaN if it has none."""
    return np.array(
        [
            np.nan if own is None else named_aspects(text, pattern) <= set(map(_canonical, own))
            for text, own in zip(texts, aspects, strict=True)
        ],
        dtype=np.float64,
    )


def _canonical(phrase: str) -> str:
    return " ".join(phrase.lower().split())
