"""All metrics of an evaluation, by name, with 95 % intervals of those that are means over pairs."""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from xrec.config.evaluate import EvaluateConfig
from xrec.evaluate import text_metrics
from xrec.evaluate.bootstrap import Estimate, bootstrap_mean
from xrec.evaluate.encoder import embedding_scores, load_encoder
from xrec.evaluate.scores import ScoredPair
from xrec.llm.model import resolve_device

Metrics = dict[str, Estimate]
_BOOTSTRAP_SAMPLES = 1000  # of the 95 % intervals
_BATCH_SIZE = 16  # texts of one pass through the sentence encoder
_Mean = Callable[[ArrayLike, Sequence[ScoredPair]], Estimate]  # values, and the pair of each

# `metrics.parquet` of the evaluation artifact: one row a metric.
METRICS = pa.schema(
    [
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
    ]
)


def compute_metrics(pairs: Sequence[ScoredPair], config: EvaluateConfig) -> Metrics:
    """The metrics of `pairs`, in the order in which they are shown.

    xrec.evaluate.descriptions says what each means. Aspect metrics are there only if aspects are
    planted, metrics of titles only if items have titles, embedding scores only with a configured
    encoder. Raises ModelError if the encoder cannot be had.
    """

    def mean(values: ArrayLike, of: Sequence[ScoredPair]) -> Estimate:
        return bootstrap_mean(
            values,
            [pair.user_id for pair in of],
            num_samples=_BOOTSTRAP_SAMPLES,
            seed=config.seed,
        )

    weighed = [pair for pair in pairs if pair.gain is not None]
    planted = [pair for pair in pairs if pair.aspect is not None]
    titled = [pair for pair in pairs if pair.names_item is not None]
    return {
        "coverage": mean([bool(pair.text) for pair in pairs], pairs),
        **(_signal_metrics(weighed, mean) if weighed else {}),
        **(_aspect_metrics(planted, mean) if planted else {}),
        **(_title_metrics(titled, mean) if titled else {}),
        **(_support_metrics(planted, mean) if planted else {}),
        **_likeness_metrics(pairs, mean),
        **(_embedding_metrics(pairs, config, config.encoder, mean) if config.encoder else {}),
        **_form_metrics(pairs),
    }


def flat_metrics(metrics: Mapping[str, Estimate]) -> dict[str, float]:
    """Plain numbers for JSON: `name`, and `name_low` and `name_high` where there is an interval."""
    flat: dict[str, float] = {}
    for name, estimate in metrics.items():
        flat[name] = estimate.value
        if estimate.low is not None and estimate.high is not None:
            flat |= {f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return flat


def metrics_table(metrics: Mapping[str, Estimate]) -> pa.Table:
    """The metrics as a long table of the schema METRICS."""
    rows = [{"metric": name, **vars(estimate)} for name, estimate in metrics.items()]
    return pa.Table.from_pylist(rows, schema=METRICS)


def _signal_metrics(pairs: Sequence[ScoredPair], mean: _Mean) -> Metrics:
    own = np.array([pair.nll_own for pair in pairs], dtype=np.float64)
    shuffled = np.array([pair.nll_shuffled for pair in pairs], dtype=np.float64)
    return {
        "personalization_gain": mean(shuffled - own, pairs),
        "personalization_win_rate": mean(own < shuffled, pairs),
        "nll_own": mean(own, pairs),
        "nll_shuffled": mean(shuffled, pairs),
    }


def _aspect_metrics(pairs: Sequence[ScoredPair], mean: _Mean) -> Metrics:
    """Of pairs with a planted aspect; an aspect that the item lacks counts against a text too.

    A text with another user's vector is not asked for of every pair. Own and other vector are then
    also compared on the pairs of which it is. A refused text is wrong on both sides.
    """
    pattern, right = _pattern(pairs), [pair.aspect or "" for pair in pairs]
    shuffled = [pair for pair in pairs if pair.shuffled_explanation is not None]

    def accuracy(of: Sequence[ScoredPair], texts: Sequence[str]) -> Estimate:
        return mean(text_metrics.names_only(texts, [each.aspect or "" for each in of], pattern), of)

    metrics = {"aspect_accuracy": accuracy(pairs, [pair.text for pair in pairs])}
    if 0 < len(shuffled) < len(pairs):
        metrics["aspect_accuracy_both"] = accuracy(shuffled, [pair.text for pair in shuffled])
    if shuffled:
        texts = [pair.shuffled_explanation or "" for pair in shuffled]
        metrics["aspect_accuracy_shuffled"] = accuracy(shuffled, texts)
    references = text_metrics.names_only([pair.reference for pair in pairs], right, pattern)
    chance = text_metrics.chance_level([pair.aspects or () for pair in pairs])
    return {
        **metrics,
        "aspect_chance": Estimate(chance),
        "aspect_accuracy_references": Estimate(float(references.mean())),
    }


def _title_metrics(pairs: Sequence[ScoredPair], mean: _Mean) -> Metrics:
    """Of pairs whose item has a title."""
    named = [pair for pair in pairs if pair.names_item or pair.other_title is not None]
    references = float(np.mean([bool(pair.reference_names_item) for pair in pairs]))
    right = [pair.other_title is None for pair in named]
    return {
        **({"title_accuracy": mean(right, named)} if named else {}),
        "names_item": mean([bool(pair.names_item) for pair in pairs], pairs),
        "names_item_references": Estimate(references),
        "names_another_item": mean([pair.other_title is not None for pair in pairs], pairs),
    }


def _support_metrics(pairs: Sequence[ScoredPair], mean: _Mean) -> Metrics:
    """Of pairs with planted aspects."""
    texts, aspects = [pair.text for pair in pairs], [pair.aspects or () for pair in pairs]
    supported = text_metrics.names_none_beside(texts, aspects, _pattern(pairs))
    return {"aspects_supported": mean(supported, pairs)}


def _pattern(pairs: Sequence[ScoredPair]) -> re.Pattern[str]:
    return text_metrics.aspect_pattern(each for pair in pairs for each in pair.aspects or ())


def _likeness_metrics(pairs: Sequence[ScoredPair], mean: _Mean) -> Metrics:
    explanations, references = _texts(pairs)
    return {
        "bleu": Estimate(text_metrics.corpus_bleu(explanations, references)),
        "rouge_l": mean(text_metrics.rouge_l(explanations, references), pairs),
    }


def _embedding_metrics(
    pairs: Sequence[ScoredPair], config: EvaluateConfig, source: str, mean: _Mean
) -> Metrics:
    device = str(resolve_device(config.device))
    encoder = load_encoder(source, cache_dir=config.llm.cache_dir, device=device)
    scores = embedding_scores(encoder, *_texts(pairs), batch_size=_BATCH_SIZE)
    return {
        "embedding_f1": mean(scores.f1, pairs),
        "embedding_precision": mean(scores.precision, pairs),
        "embedding_recall": mean(scores.recall, pairs),
        "sentence_cosine": mean(scores.cosine, pairs),
    }


def _form_metrics(pairs: Sequence[ScoredPair]) -> Metrics:
    explanations, references = _texts(pairs)
    values = {
        "unique_sentence_ratio": text_metrics.unique_sentence_ratio(explanations),
        "mean_words": float(text_metrics.num_words(explanations).mean()),
        "mean_words_references": float(text_metrics.num_words(references).mean()),
    }
    return {name: Estimate(value) for name, value in values.items()}


def _texts(pairs: Sequence[ScoredPair]) -> tuple[list[str], list[str]]:
    return [pair.text for pair in pairs], [pair.reference for pair in pairs]
