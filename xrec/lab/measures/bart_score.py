"""BARTScore: how likely a sequence-to-sequence model finds one text after the other.

The mean log-likelihood of a token, nats, of all of a text's tokens and the special ones around them
(Yuan et al. 2021, arXiv 2106.11520; neulab/BARTScore, `bart_score.py`). Precision is that of the
text after its reference, recall that of the reference after the text, F1 their mean. All are
negative; compare them between contestants by one checkpoint only.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM

from xrec.config.metrics import CheckpointConfig
from xrec.lab.measures.checkpoint import load_checkpoint
from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.lab.measures.measure import Floats, MetricInfo
from xrec.progress import progress

_LONGEST = 1024  # tokens of a text, where neither model nor tokenizer says


def bart_score_infos(config: CheckpointConfig) -> tuple[MetricInfo, ...]:
    """What the table says of the scores by this checkpoint."""
    by = config.name
    return (
        MetricInfo(
            "bart_score_precision",
            f"BARTScore, text after reference ({by})",
            "higher",
            "Mean log-likelihood of the text's tokens after the reference, nats.",
        ),
        MetricInfo(
            "bart_score_recall",
            f"BARTScore, reference after text ({by})",
            "higher",
            "Mean log-likelihood of the reference's tokens after the text, nats.",
        ),
        MetricInfo("bart_score_f1", f"BARTScore, mean of both ({by})", "higher", "Of each pair."),
    )


class BartScore:
    """BARTScore by the checkpoint of `config`; raises ModelError if it cannot be had."""

    def __init__(
        self, config: CheckpointConfig, *, cache_dir: str | None, device: str, batch_size: int
    ) -> None:
        self._model, self._tokenizer = load_checkpoint(
            "bart_score",
            config.source,
            AutoModelForSeq2SeqLM.from_pretrained,
            cache_dir=cache_dir,
            device=device,
        )
        self._device, self._batch_size = device, batch_size

    def of_pairs(self, texts: ContestantTexts) -> Mapping[str, Floats]:
        """See PairMeasure; an empty text has what the model gives it."""
        precision = self._log_likelihoods(texts.references, texts.texts)
        recall = self._log_likelihoods(texts.texts, texts.references)
        return {
            "bart_score_precision": precision,
            "bart_score_recall": recall,
            "bart_score_f1": (precision + recall) / 2,
        }

    @torch.inference_mode()
    def _log_likelihoods(self, sources: Sequence[str], targets: Sequence[str]) -> Floats:
        """(N,) mean log-likelihood of the tokens of each target after its source."""
        starts = range(0, len(sources), self._batch_size)
        found: list[float] = []
        for start in progress(starts, "BARTScore", total=len(starts)):
            stop = start + self._batch_size
            source, target = self._ids(sources[start:stop]), self._ids(targets[start:stop])
            logits = self._model(**source, labels=target["input_ids"]).logits  # (B, T, V)
            likely = logits.log_softmax(-1).gather(-1, target["input_ids"][..., None])[..., 0]
            mask = target["attention_mask"]
            found += ((likely * mask).sum(-1) / mask.sum(-1)).tolist()
        return np.array(found, dtype=np.float64)

    def _ids(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        # Models with relative positions, such as T5, have no largest one.
        positions = getattr(self._model.config, "max_position_embeddings", None)
        longest = min(self._tokenizer.model_max_length, positions or _LONGEST)
        encoded = self._tokenizer(
            list(texts), max_length=longest, truncation=True, padding=True, return_tensors="pt"
        ).to(self._device)
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}
