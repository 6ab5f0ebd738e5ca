"""Metrics of all texts of a contestant together: BLEU, and how many of the texts differ.

USR is that of NETE (Li et al., CIKM 2020). Both depend on the number of texts: compare contestants
on the same pairs only.
"""

from xrec.evaluate.text_metrics import corpus_bleu
from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.lab.measures.measure import MetricInfo

CORPUS_INFOS = (
    MetricInfo("bleu", "BLEU, 0 to 100", "higher", "Of the whole corpus, up to four words.", 2),
    MetricInfo(
        "usr",
        "USR",
        "higher",
        "Unique sentence ratio: distinct texts over all; empty ones are one.",
    ),
)


def of_corpus(texts: ContestantTexts) -> dict[str, float]:
    """Each metric of these texts; raises ValueError without texts."""
    return {
        "bleu": corpus_bleu(texts.texts, texts.references),
        "usr": len({tuple(text.split()) for text in texts.texts}) / len(texts),
    }
