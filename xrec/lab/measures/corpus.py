"""Metrics of all texts of a contestant together: BLEU, and how much the texts differ.

USR, FCR and DIV are those of NETE (Li et al., CIKM 2020), as PETER's `utils.py` computes them.
They depend on the number of texts: compare contestants on the same pairs only.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from sacrebleu.metrics import BLEU

from xrec.lab.measures.aspects import AspectsNamed
from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.lab.measures.measure import MetricInfo
from xrec.lab.measures.tf_idf import text_words

_DIVERSITY = (
    MetricInfo("bleu", "BLEU, 0 to 100", "higher", "Of the whole corpus, up to four words.", 2),
    MetricInfo("bleu_1", "BLEU-1, 0 to 100", "higher", "Of the whole corpus, single words.", 2),
    MetricInfo(
        "usr",
        "USR",
        "higher",
        "Unique sentence ratio: distinct texts over all; empty ones are one.",
    ),
    MetricInfo("distinct_1", "Distinct-1", "higher", "Distinct words over all words of the texts."),
    MetricInfo("distinct_2", "Distinct-2", "higher", "Distinct pairs of words over all of them."),
)
_OF_ASPECTS = (
    MetricInfo(
        "fcr",
        "FCR",
        "higher",
        "Feature coverage ratio: share of the vocabulary's aspects that any of the texts names.",
    ),
    MetricInfo(
        "div", "DIV", "lower", "Feature diversity: aspects that two texts share, mean of all twos."
    ),
)


class CorpusMeasures:
    """All metrics of a corpus; those of aspects only if `aspects` are given."""

    def __init__(self, aspects: AspectsNamed | None) -> None:
        self._aspects = aspects
        self.infos = _DIVERSITY if aspects is None else (*_DIVERSITY, *_OF_ASPECTS)

    def of_corpus(self, texts: ContestantTexts) -> dict[str, float]:
        """Each metric of these texts; a metric that needs two texts is left out for one.

        Raises ValueError without texts.
        """
        if not len(texts):
            raise ValueError("no texts; expected at least one")
        hypotheses, references = list(texts.texts), [texts.references]
        found = {
            "bleu": float(BLEU().corpus_score(hypotheses, references).score),
            "bleu_1": float(BLEU(max_ngram_order=1).corpus_score(hypotheses, references).score),
            "usr": len({tuple(text.split()) for text in texts.texts}) / len(texts),
            "distinct_1": distinct(texts.texts, 1),
            "distinct_2": distinct(texts.texts, 2),
        }
        if self._aspects is not None:
            named = self._aspects.named(texts.texts)
            counts = Counter(name for of_text in named for name in of_text)
            found["fcr"] = len(counts) / len(self._aspects.vocabulary)
            if len(texts) > 1:
                found["div"] = _mean_shared(counts, len(texts))
        return found


def distinct(texts: Sequence[str], order: int) -> float:
    """Distinct n-grams over all n-grams of the texts (Li et al. 2016, arXiv 1510.03055).

    Words are Unicode's, in any case. 0 if no text has `order` words.
    """
    grams: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        words = text_words(text)
        grams.update(zip(*(words[start:] for start in range(order)), strict=False))
    return len(grams) / grams.total() if grams else 0.0


def _mean_shared(counts: Mapping[str, int], num_texts: int) -> float:
    """The mean over all two texts of the aspects that both name, by how many texts name each."""
    named = np.array(list(counts.values()), dtype=np.float64)
    return float((named * (named - 1)).sum() / (num_texts * (num_texts - 1)))
