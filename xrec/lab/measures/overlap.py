"""What a text shares with its reference: words, and vectors of an encoder; and its length."""

import numpy as np

from xrec.evaluate.text_metrics import corpus_bleu, num_words, rouge_l
from xrec.lab.measures.measure import Floats, MetricInfo, ScoredTexts

OVERLAP_INFOS = (
    MetricInfo("coverage", "Coverage"),
    MetricInfo("words", "Words, mean", 1),
    MetricInfo("rouge_l", "ROUGE-L F1"),
)


def overlap(texts: ScoredTexts) -> dict[str, Floats]:
    """Coverage, words and ROUGE-L (F1, 0 to 1, no stemming); a PairMeasure."""
    return {
        "coverage": texts.has_text.astype(np.float64),
        "words": num_words(texts.texts).astype(np.float64),
        "rouge_l": rouge_l(texts.texts, texts.references),
    }


CORPUS_INFOS = (MetricInfo("bleu", "BLEU, 0 to 100", 2), MetricInfo("usr", "USR"))


def of_corpus(texts: ScoredTexts) -> dict[str, float]:
    """BLEU, and the USR of NETE (Li et al., CIKM 2020), of all texts of an entry together.

    Both depend on the number of texts: compare entries on the same pairs only.
    """
    return {
        "bleu": corpus_bleu(texts.texts, texts.references),
        "usr": len({tuple(text.split()) for text in texts.texts}) / len(texts),
    }


def embedding_infos(encoder: str) -> tuple[MetricInfo, ...]:
    """What the table says of the scores by this encoder."""
    by = encoder.rsplit("/", 1)[-1].removeprefix("pypi:")
    return (
        MetricInfo("embedding_precision", f"Embedding P ({by})"),
        MetricInfo("embedding_recall", f"Embedding R ({by})"),
        MetricInfo("embedding_f1", f"Embedding F1 ({by})"),
        MetricInfo("sentence_cosine", f"Sentence cosine ({by})"),
    )
