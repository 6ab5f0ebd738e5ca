"""What a text shares with its reference: words, and vectors of an encoder; and its length.

With a baseline b each of the embedding score's precision, recall and F1 becomes (x - b) / (1 - b),
as BERTScore does. An empty text has 0 before and after that: as two texts that have nothing to do
with each other.
"""

from collections.abc import Mapping

import numpy as np

from xrec.config.evaluate import EncoderConfig
from xrec.evaluate.encoder import TextEncoder, embedding_scores
from xrec.evaluate.text_metrics import corpus_bleu, rouge_l
from xrec.lab.measures.measure import Floats, MetricInfo, ScoredTexts

_TEXTS_AT_ONCE = 16  # of a pass through the encoder


class Overlap:
    """Coverage, words and ROUGE-L (F1, 0 to 1, no stemming)."""

    infos = (
        MetricInfo("coverage", "Coverage"),
        MetricInfo("words", "Words, mean", 1),
        MetricInfo("rouge_l", "ROUGE-L F1"),
    )

    def of_pairs(self, texts: ScoredTexts) -> Mapping[str, Floats]:
        """See PairMeasure."""
        return {
            "coverage": texts.has_text.astype(np.float64),
            "words": np.array([len(text.split()) for text in texts.texts], dtype=np.float64),
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


def embedding_infos(config: EncoderConfig) -> tuple[MetricInfo, ...]:
    """What the table says of the scores by this encoder."""
    by = config.source.rsplit("/", 1)[-1].removeprefix("pypi:")
    by += "" if config.layer is None else f", layer {config.layer}"
    by += "" if config.baseline is None else ", rescaled"
    return (
        MetricInfo("embedding_precision", f"Embedding P ({by})"),
        MetricInfo("embedding_recall", f"Embedding R ({by})"),
        MetricInfo("embedding_f1", f"Embedding F1 ({by})"),
        MetricInfo("sentence_cosine", f"Sentence cosine ({by})"),
    )


class EmbeddingScore:
    """Scores by `encoder`, rescaled by `baseline` (precision, recall, F1) if one is given."""

    def __init__(self, encoder: TextEncoder, baseline: tuple[float, float, float] | None) -> None:
        self._encoder, self._baseline = encoder, baseline

    def of_pairs(self, texts: ScoredTexts) -> Mapping[str, Floats]:
        """See PairMeasure."""
        scores = embedding_scores(
            self._encoder, list(texts.texts), texts.references, _TEXTS_AT_ONCE
        )
        rows = np.stack([scores.precision, scores.recall, scores.f1])
        if self._baseline is not None:
            level = np.array(self._baseline)[:, None]
            rows = np.where(texts.has_text, (rows - level) / (1 - level), 0.0)
        names = ("embedding_precision", "embedding_recall", "embedding_f1")
        return {**dict(zip(names, rows, strict=True)), "sentence_cosine": scores.cosine}
