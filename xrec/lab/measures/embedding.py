"""The embedding score of pairs, by an encoder that its name tells.

With a baseline b each of precision, recall and F1 becomes (x - b) / (1 - b), as BERTScore does. An
empty text has 0 before and after that: as two texts that have nothing to do with each other.
"""

from collections.abc import Mapping

import numpy as np

from xrec.config.metrics import EncoderConfig
from xrec.evaluate.encoder import TextEncoder, embedding_scores
from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.lab.measures.measure import Floats, MetricInfo


def embedding_infos(config: EncoderConfig) -> tuple[MetricInfo, ...]:
    """What the table says of the scores by this encoder."""
    by = config.source.rsplit("/", 1)[-1].removeprefix("pypi:")
    by += "" if config.layer is None else f", layer {config.layer}"
    by += "" if config.baseline is None else ", rescaled"
    matched = "Each token matched with its nearest one of the other text (BERTScore's formula)"
    return (
        MetricInfo("embedding_precision", f"Embedding P ({by})", "higher", f"{matched}: texts."),
        MetricInfo("embedding_recall", f"Embedding R ({by})", "higher", f"{matched}: references."),
        MetricInfo("embedding_f1", f"Embedding F1 ({by})", "higher", f"{matched}: both."),
        MetricInfo(
            "sentence_cosine", f"Sentence cosine ({by})", "higher", "Closeness of the whole texts."
        ),
    )


class EmbeddingScore:
    """Scores by `encoder`, rescaled by `baseline` (precision, recall, F1) if one is given."""

    def __init__(
        self,
        encoder: TextEncoder,
        baseline: tuple[float, float, float] | None,
        batch_size: int,
    ) -> None:
        self._encoder, self._baseline, self._batch_size = encoder, baseline, batch_size

    def of_pairs(self, texts: ContestantTexts) -> Mapping[str, Floats]:
        """See PairMeasure."""
        scores = embedding_scores(
            self._encoder, list(texts.texts), texts.references, self._batch_size
        )
        rows = np.stack([scores.precision, scores.recall, scores.f1])
        if self._baseline is not None:
            level = np.array(self._baseline)[:, None]
            rows = np.where(texts.has_text, (rows - level) / (1 - level), 0.0)
        names = ("embedding_precision", "embedding_recall", "embedding_f1")
        return {**dict(zip(names, rows, strict=True)), "sentence_cosine": scores.cosine}
