"""BARTScore and BLEURT: how a trained model rates a text against its reference.

    BARTScore = mean over the reference's tokens of ln p(token | earlier tokens, text)
    BLEURT    = the output of a regression model that reads reference and text

Yuan, Neubig, Liu: BARTScore: Evaluating Generated Text as Text Generation, NeurIPS 2021: the
direction from text to reference (recall). Sellam, Das, Parikh: BLEURT, ACL 2020. Both load any
transformers model, from a folder or the hub.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from xrec.errors import ModelError
from xrec.evaluate.encoder import load_pretrained, short_name
from xrec.evaluate.measure import Floats, Measure, Metric, Score

_BATCH_SIZE = 16
_MAX_TOKENS = 512
Rate = Callable[[Sequence[str], Sequence[str]], torch.Tensor]
"""Returns the scores (B,) of B texts and their references."""


def bart_score(source: str, references: Sequence[str], device: str) -> Measure:
    """Measure BARTScore by the encoder-decoder `source`, in nats per token, at most 0.

    An empty text is scored like any other: it says nothing of its reference.
    """
    metric = Metric("bart_score", f"BARTScore ({short_name(source)}), nats per token")

    def load() -> Score:
        model, encode = _load(AutoModelForSeq2SeqLM, source, device, "bart")

        def rate(texts: Sequence[str], wanted: Sequence[str]) -> torch.Tensor:
            read, target = encode(texts), encode(wanted)
            labels = target.input_ids.masked_fill(target.attention_mask == 0, -100)
            logits = model(
                input_ids=read.input_ids, attention_mask=read.attention_mask, labels=labels
            ).logits  # (B, T, V)
            nll = cross_entropy(logits.mT.float(), labels, reduction="none")  # (B, T)
            scores: torch.Tensor = -nll.sum(dim=1) / (labels >= 0).sum(dim=1)
            return scores

        return lambda texts: [_in_batches(rate, texts, references)]

    return Measure((metric,), load)


def bleurt(source: str, references: Sequence[str], device: str) -> Measure:
    """Measure BLEURT by `source`, a model with one regression output."""
    metric = Metric("bleurt", f"BLEURT ({short_name(source)})")

    def load() -> Score:
        model, encode = _load(AutoModelForSequenceClassification, source, device, "bleurt")
        if model.config.num_labels != 1:
            raise ModelError(
                f"model {source!r} has {model.config.num_labels} outputs; BLEURT needs one",
                code="model_not_loadable",
                key="bleurt",
                saw=source,
            )

        def rate(texts: Sequence[str], wanted: Sequence[str]) -> torch.Tensor:
            scores: torch.Tensor = model(**encode(wanted, texts)).logits[:, 0]
            return scores

        return lambda texts: [_in_batches(rate, texts, references)]

    return Measure((metric,), load)


def _load(loader: Any, source: str, device: str, key: str) -> tuple[Any, Callable[..., Any]]:
    """Return the model and a function that encodes batches; raise what `load_pretrained` raises."""
    model, tokenizer = load_pretrained(loader, source, key)
    longest = min(tokenizer.model_max_length, _MAX_TOKENS)

    def encode(*texts: Sequence[str]) -> Any:
        columns = map(list, texts)
        return tokenizer(
            *columns, return_tensors="pt", padding=True, truncation=True, max_length=longest
        ).to(device)

    return model.to(device=device, dtype=torch.float32).eval(), encode


@torch.inference_mode()
def _in_batches(rate: Rate, texts: Sequence[str], references: Sequence[str]) -> Floats:
    starts = range(0, len(texts), _BATCH_SIZE)
    scores = [
        rate(texts[start : start + _BATCH_SIZE], references[start : start + _BATCH_SIZE])
        for start in starts
    ]
    return np.concatenate([part.double().cpu().numpy() for part in scores])
