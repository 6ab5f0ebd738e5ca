"""Metrics of the generated texts alone and against their references, on the field's own libraries.

None of them knows of users: a text that is the same for everyone can score well here. They say how
the texts read, and how much they say of their pair in particular; whether the collaborative signal
arrives is for the NLL gain and the aspects.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU
from scipy.special import gammaln

from xrec.evaluate.tf_idf import TfIdf, text_words


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


def specificity(texts: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """(N,) share of the other references that each text is less like than its own, 0 to 1.

    Likeness is the cosine of TF-IDF, weighed by the references; a tie counts half. A text that
    would do for any pair has 0.5. Raises ValueError for fewer than two pairs.
    """
    _check_lengths(texts, references)
    others = ~np.eye(len(texts), dtype=np.bool_)
    return share_nearer(TfIdf(references).similarities(texts, references), others)


def share_nearer(
    similarities: NDArray[np.float64], others: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(N,) share of each row's `others` whose similarity is below that on the diagonal.

    similarities: (N, N), of text n with reference m. others: (N, N), True where reference m is
    compared with; not on the diagonal. A tie counts half. NaN for a row without others.
    """
    return share_below(np.diagonal(similarities), similarities, others)


def share_below(
    own: NDArray[np.float64], similarities: NDArray[np.float64], others: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(B,) share of each row's `others` (B, M) whose similarity (B, M) is below its `own` (B,).

    A tie counts half. NaN for a row without others.
    """
    nearer = (similarities < own[:, None]) + 0.5 * (similarities == own[:, None])
    num_others = others.sum(axis=1)
    shares: NDArray[np.float64] = np.where(others, nearer, 0).sum(axis=1)
    mean = np.full(len(own), np.nan)
    np.divide(shares, num_others, out=mean, where=num_others > 0)
    return mean


def distinct_words(texts: Sequence[str], num_texts: int = 100) -> float:
    """How many distinct words `num_texts` of the texts have, on average over all ways to draw them.

    So the figures of more and of fewer texts can be compared (rarefaction, Hurlbert 1971):
    the sum over words of 1 - C(N - df, n) / C(N, n), where df of the N texts hold the word. Words
    are Unicode's, in any case. Raises ValueError for fewer than `num_texts` texts.
    """
    if not 0 < num_texts <= len(texts):
        raise ValueError(f"{len(texts)} texts; expected {num_texts} or more, and one at least")
    found = Counter(word for text in texts for word in set(text_words(text)))
    without = len(texts) - np.array(list(found.values()), dtype=np.float64)
    without = without[without >= num_texts]  # other words are in any draw
    missed = np.exp(
        _log_ways(without, num_texts) - _log_ways(np.array(float(len(texts))), num_texts)
    )
    return len(found) - float(missed.sum())


def frequent_words_share(texts: Sequence[str], num_words: int = 100) -> float:
    """Share of all words of the texts that are one of the `num_words` most frequent, 0 to 1.

    It is higher the fewer the texts, so compare it of equal numbers of texts. 0 without words.
    """
    _check_not_empty(texts)
    counts = Counter(word for text in texts for word in text_words(text))
    frequent = sum(count for _, count in counts.most_common(num_words))
    return frequent / max(1, counts.total())


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


def _log_ways(of: NDArray[np.float64], num_drawn: int) -> NDArray[np.float64]:
    """ln C(of, num_drawn)."""
    ways: NDArray[np.float64] = (
        gammaln(of + 1) - gammaln(of - num_drawn + 1) - gammaln(float(num_drawn) + 1)
    )
    return ways


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
