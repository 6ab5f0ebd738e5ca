"""BLEURT: a BERT that was trained to predict what people give a text beside its reference.

Any checkpoint that transformers loads as a classifier with one output, such as
Elron/bleurt-base-512 (Sellam et al. 2020, arXiv 2004.04696). The reference is the first segment.
"""

from collections.abc import Mapping

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from xrec.config.metrics import CheckpointConfig
from xrec.errors import ModelError
from xrec.lab.measures.checkpoint import load_checkpoint
from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.lab.measures.measure import Floats, MetricInfo
from xrec.progress import progress


def bleurt_infos(config: CheckpointConfig) -> tuple[MetricInfo, ...]:
    """What the table says of the score by this checkpoint."""
    return (
        MetricInfo(
            "bleurt",
            f"BLEURT ({config.name})",
            "higher",
            "What the checkpoint thinks that people would give the text beside its reference.",
        ),
    )


class Bleurt:
    """BLEURT by the checkpoint of `config`; raises ModelError if it cannot be had, or is none."""

    def __init__(
        self, config: CheckpointConfig, *, cache_dir: str | None, device: str, batch_size: int
    ) -> None:
        self._model, self._tokenizer = load_checkpoint(
            "bleurt",
            config.source,
            AutoModelForSequenceClassification.from_pretrained,
            cache_dir=cache_dir,
            device=device,
        )
        if self._model.config.num_labels != 1:
            raise ModelError(
                f"metrics.bleurt.source {config.source!r} is a classifier of "
                f"{self._model.config.num_labels} classes; expected one output, as "
                "Elron/bleurt-base-512 has"
            )
        self._device, self._batch_size = device, batch_size

    @torch.inference_mode()
    def of_pairs(self, texts: ContestantTexts) -> Mapping[str, Floats]:
        """See PairMeasure; an empty text has what the model gives it."""
        starts = range(0, len(texts), self._batch_size)
        found: list[float] = []
        for start in progress(starts, "BLEURT", total=len(starts)):
            stop = start + self._batch_size
            batch = self._tokenizer(
                texts.references[start:stop],
                list(texts.texts[start:stop]),
                truncation="longest_first",
                max_length=min(
                    self._tokenizer.model_max_length, self._model.config.max_position_embeddings
                ),
                padding=True,
                return_tensors="pt",
            ).to(self._device)
            found += self._model(**batch).logits[:, 0].tolist()
        return {"bleurt": np.array(found, dtype=np.float64)}
