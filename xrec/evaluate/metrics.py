"""The measures of an evaluation, and its metrics with 95 % intervals for means over pairs."""

from collections.abc import Sequence

import numpy as np

from xrec.config import EvaluateConfig
from xrec.evaluate.encoder import embedding
from xrec.evaluate.intervals import Estimate
from xrec.evaluate.measure import Floats, Measure, Metric
from xrec.evaluate.scores import ScoredPair
from xrec.evaluate.text_metrics import (
    aspect_pattern,
    corpus,
    names_none_beside,
    names_only,
    overlap,
)
from xrec.llm.model import resolve_device

Metrics = dict[Metric, Estimate]

_SIGNAL, _TRUTH = "Does the user's own vector matter?", "Are the texts true?"
GAIN = Metric(
    "personalization_gain",
    "Personalization gain, nats per token",
    group=_SIGNAL,
    meaning="How much likelier the reference is with the user's own vector than with another "
    "user's. Above 0, the vector affects the likelihood, but not necessarily the generated text.",
)
_NLL = Metric(
    "nll_own",
    "NLL, own vector, nats per token",
    better="lower",
    group=_SIGNAL,
    meaning="How surprising the reference is to the model with the user's own vector.",
)
_ASPECTS = (
    Metric(
        "aspect_accuracy",
        "Aspect accuracy",
        is_share=True,
        group=_SIGNAL,
        meaning="Share of texts that name the planted aspect that the user likes most, and no "
        "other. Only the collaborative signal reveals which one it is.",
    ),
    Metric(
        "aspect_accuracy_shuffled",
        "Aspect accuracy, another user's vector",
        better="",
        is_share=True,
        group=_SIGNAL,
        meaning="The same for texts generated with another user's vector. It should drop to about "
        "chance.",
    ),
    Metric(
        "aspect_chance",
        "Aspect accuracy, chance level",
        better="",
        group=_SIGNAL,
        meaning="The accuracy of naming one of the item's aspects at random.",
    ),
    Metric(
        "aspect_accuracy_references",
        "Aspect accuracy, references",
        better="",
        group=_SIGNAL,
        meaning="The same test on the reference texts. If it is below 1, the test misreads some "
        "texts.",
    ),
    Metric(
        "aspects_supported",
        "Texts with only aspects that the item has",
        is_share=True,
        group=_TRUTH,
        meaning="Share of texts that name no aspect that the item lacks.",
    ),
)
OF_VECTORS = (GAIN, _NLL, _ASPECTS[1])
"""The metrics that texts from words alone do not have."""
_TITLES = (
    Metric(
        "title_accuracy",
        "Correct title, among texts that name one",
        is_share=True,
        group=_TRUTH,
        meaning="Share of texts that name their own item and no other, among those that name any "
        "item of the catalog.",
    ),
    Metric(
        "names_item",
        "Texts that name their item",
        is_share=True,
        group=_TRUTH,
        meaning="Share of texts that contain the item's title, in full or in an unambiguous short "
        "form.",
    ),
    Metric(
        "names_another_item",
        "Texts that name another item",
        better="lower",
        is_share=True,
        group=_TRUTH,
        meaning="Share of texts that contain another item's title, unless it is in the prompt.",
    ),
)

_COMPLAINTS = Metric(
    "names_complaint",
    "Texts that name what the user complains of",
    better="lower",
    is_share=True,
    group=_TRUTH,
    meaning="Share of texts that name an aspect that more of the user's reviews criticize than "
    "praise, among those for users with such an aspect.",
)


def measures_of(pairs: Sequence[ScoredPair], config: EvaluateConfig) -> list[Measure]:
    """Return the measures of the pairs' texts."""
    references = [pair.reference for pair in pairs]
    encoders = [] if config.encoder is None else [config.encoder]
    return [
        overlap(references),
        Measure((GAIN, _NLL), lambda: lambda texts: _likelihoods(pairs)),
        Measure(_ASPECTS, lambda: lambda texts: _aspects(pairs, texts)),
        Measure(_TITLES, lambda: lambda texts: _titles(pairs)),
        Measure((_COMPLAINTS,), lambda: lambda texts: [_complaints(pairs)]),
        corpus(references),
        *(embedding(name, references, str(resolve_device("auto"))) for name in encoders),
    ]


def compute_metrics(pairs: Sequence[ScoredPair], config: EvaluateConfig) -> Metrics:
    """Return the metrics that at least one pair has.

    Aspect metrics need planted aspects, title metrics titles, and embedding scores an encoder.
    Raises ModelError if the encoder cannot be loaded.
    """
    texts, users = [pair.explanation for pair in pairs], [pair.user_id for pair in pairs]
    return {
        metric: metric.estimate(values, users)
        for measure in measures_of(pairs, config)
        for metric, values in zip(measure.metrics, measure.load()(texts), strict=True)
        if np.isfinite(values).any()
    }


def flat_metrics(metrics: Metrics) -> dict[str, float]:
    """Return plain numbers for JSON: `name`, and `name_low` and `name_high` of intervals."""
    flat: dict[str, float] = {}
    for metric, estimate in metrics.items():
        flat[metric.name] = estimate.value
        if estimate.low is not None and estimate.high is not None:
            flat |= {f"{metric.name}_low": estimate.low, f"{metric.name}_high": estimate.high}
    return flat


def _column(values: Sequence[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _likelihoods(pairs: Sequence[ScoredPair]) -> list[Floats]:
    is_weighed = [pair.gain is not None for pair in pairs]
    own = np.where(is_weighed, _column([pair.nll_own for pair in pairs]), np.nan)
    return [_column([pair.gain for pair in pairs]), own]


def _aspects(pairs: Sequence[ScoredPair], texts: Sequence[str]) -> list[Floats | float]:
    """Score the pairs with a planted aspect; naming one that the item lacks is wrong.

    A refused text counts as wrong, both with the user's own vector and with another user's.
    """
    right, aspects = [pair.aspect for pair in pairs], [pair.aspects for pair in pairs]
    known = [own for own in aspects if own]
    if not known:
        return [np.nan] * len(_ASPECTS)
    pattern = aspect_pattern(aspect for own in known for aspect in own)
    others = [pair.shuffled_explanation for pair in pairs]
    shuffled = names_only([text or "" for text in others], right, pattern)
    of_references = names_only([pair.reference for pair in pairs], right, pattern)
    return [
        names_only(texts, right, pattern),
        np.nan if others.count(None) == len(others) else shuffled,
        float(np.mean([1 / len(set(own)) for own in known])),
        float(np.nanmean(of_references)),
        names_none_beside(texts, aspects, pattern),
    ]


def _complaints(pairs: Sequence[ScoredPair]) -> Floats:
    return _column([pair.names_complaint for pair in pairs])


def _titles(pairs: Sequence[ScoredPair]) -> list[Floats]:
    has_title = np.array([pair.names_item is not None for pair in pairs])
    own = np.where(has_title, _column([pair.names_item for pair in pairs]), np.nan)
    other = np.where(has_title, [float(pair.other_title is not None) for pair in pairs], np.nan)
    return [np.where((own > 0) | (other > 0), 1 - other, np.nan), own, other]
