"""Metrics of texts: pair by pair, and of all texts of a contestant together.

overlap      ROUGE, BLEU of a pair, length, coverage
embedding    BERTScore's matching by any encoder
bart_score   likelihood by a sequence-to-sequence model
bleurt       a trained scorer
specificity  own reference against others'
aspects      the aspects that texts name against their reference's
planted      the right aspect of the generated sample
corpus       BLEU, USR, distinct, FCR, DIV
anywhere     the same for a process that runs in another folder
measures     all of them together with the judges, and those that could not be had
"""

from xrec.lab.measures.anywhere import metrics_anywhere
from xrec.lab.measures.corpus import CorpusMeasures
from xrec.lab.measures.measure import MetricInfo, PairMeasure
from xrec.lab.measures.measures import (
    PAIR_COLUMNS,
    Measures,
    corpus_measures,
    describe_metrics,
    lacks_a_model,
    load_measures,
    metrics_identity,
)

__all__ = [
    "PAIR_COLUMNS",
    "CorpusMeasures",
    "Measures",
    "MetricInfo",
    "PairMeasure",
    "corpus_measures",
    "describe_metrics",
    "lacks_a_model",
    "load_measures",
    "metrics_anywhere",
    "metrics_identity",
]
