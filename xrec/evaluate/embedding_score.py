"""How alike two texts are in an encoder's space: BERTScore's matching, and the cosine.

With unit token vectors x_i of the explanation and y_j of the reference (arXiv 1904.09675, equation
1): precision = mean_i max_j x_i . y_j, recall = mean_j max_i x_i . y_j, F1 their harmonic mean, all
without idf weights. As in the package bert-score, means leave the encoder's special tokens out, and
maxima do not. With roberta-large, layer 17 and its baseline these are the published BERTScores;
with a small sentence encoder they are on another scale.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xrec.evaluate.encoder import EncodedTexts, TextEncoder
from xrec.progress import progress


@dataclass(frozen=True)
class EmbeddingScores:
    """(N,) float64 each, -1 to 1, in practice 0 to 1; 0 where a text has no token."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    cosine: NDArray[np.float64]


def embedding_scores(
    encoder: TextEncoder, explanations: list[str], references: list[str], batch_size: int
) -> EmbeddingScores:
    """Scores of each explanation against its reference.

    Raises ValueError unless there is one reference for each explanation.
    """
    if not explanations or len(explanations) != len(references):
        raise ValueError(
            f"{len(explanations)} explanations and {len(references)} references; expected one "
            "reference for each of at least one"
        )
    starts = range(0, len(explanations), batch_size)
    batches = [
        _batch_scores(
            encoder.encode(explanations[start : start + batch_size]),
            encoder.encode(references[start : start + batch_size]),
        )
        for start in progress(starts, "embedding score", total=len(starts))
    ]
    precision, recall, f1, cosine = torch.cat(batches, dim=1).double().cpu().numpy()
    return EmbeddingScores(precision, recall, f1, cosine)


def _batch_scores(texts: EncodedTexts, references: EncodedTexts) -> Tensor:
    """(4, B) precision, recall, F1, cosine."""
    similarity = texts.token_vectors @ references.token_vectors.mT  # (B, S, T)
    precision = _mean_of_best(similarity, texts.token_mask, references.text_mask)
    recall = _mean_of_best(similarity.mT, references.token_mask, texts.text_mask)
    total = precision + recall
    f1 = torch.where(total > 0, 2 * precision * recall / total, torch.zeros_like(total))
    cosine = (texts.sentence_vectors * references.sentence_vectors).sum(-1)
    both = texts.token_mask.any(-1) & references.token_mask.any(-1)
    return torch.stack([precision, recall, f1, cosine]).masked_fill(~both, 0.0)


def _mean_of_best(similarity: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B,) mean over real rows of the best similarity (B, S, T) among real columns.

    The masks (B, S) and (B, T), bool, say what is real.
    """
    best = similarity.masked_fill(~columns[:, None, :], -1.0).amax(dim=2)
    return best.masked_fill(~rows, 0.0).sum(1) / rows.sum(1).clamp(min=1)
