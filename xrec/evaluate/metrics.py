"""All metrics of an evaluation, by name, with 95 % intervals of those that are means over pairs."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from xrec.config.evaluate import EvaluateConfig
from xrec.evaluate import text_metrics
from xrec.evaluate.encoder import embedding_scores, load_encoder
from xrec.evaluate.intervals import Estimate, mean_interval
from xrec.evaluate.scores import ScoredPair
from xrec.llm.model import resolve_device

Metrics = dict[str, Estimate]


def compute_metrics(pairs: Sequence[ScoredPair], config: EvaluateConfig) -> Metrics:
    """The metrics of `pairs`, in the order in which they are shown.

    xrec.evaluate.descriptions says what each means. Aspect metrics are there only if aspects are
    planted, metrics of titles only if items have titles, embedding scores only with a configured
    encoder. Raises ModelError if the encoder cannot be had.
    """
    weighed = [pair for pair in pairs if pair.gain is not None]
    planted = [pair for pair in pairs if pair.aspect is not None]
    titled = [pair for pair in pairs if pair.names_item is not None]
    return {
        "coverage": _mean([bool(pair.explanation) for pair in pairs], pairs),
        **(_signal_metrics(weighed) if weighed else {}),
        **(_aspect_metrics(planted) if planted else {}),
        **(_title_metrics(titled) if titled else {}),
        **(_support_metrics(planted) if planted else {}),
        **_likeness_metrics(pairs),
        **(_embedding_metrics(pairs, config, config.encoder) if config.encoder else {}),
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


def _mean(values: ArrayLike, pairs: Sequence[ScoredPair]) -> Estimate:
    assert np.isfinite(np.asarray(values, dtype=np.float64)).all()  # an interval leaves NaN out
    return mean_interval(values, [pair.user_id for pair in pairs])


def _signal_metrics(pairs: Sequence[ScoredPair]) -> Metrics:
    own = np.array([pair.nll_own for pair in pairs], dtype=np.float64)
    shuffled = np.array([pair.nll_shuffled for pair in pairs], dtype=np.float64)
    return {
        "personalization_gain": _mean(shuffled - own, pairs),
        "personalization_win_rate": _mean(own < shuffled, pairs),
        "nll_own": _mean(own, pairs),
        "nll_shuffled": _mean(shuffled, pairs),
    }


def _aspect_metrics(pairs: Sequence[ScoredPair]) -> Metrics:
    """Of pairs with a planted aspect; an aspect that the item lacks counts against a text too.

    A refused text is wrong, with the own vector and with another user's.
    """
    pattern, right = _pattern(pairs), [pair.aspect or "" for pair in pairs]
    texts = (
        [pair.explanation for pair in pairs],
        [pair.shuffled_explanation or "" for pair in pairs],
        [pair.reference for pair in pairs],
    )
    own, shuffled, references = (text_metrics.names_only(each, right, pattern) for each in texts)
    chance = text_metrics.chance_level([pair.aspects or () for pair in pairs])
    return {
        "aspect_accuracy": _mean(own, pairs),
        "aspect_accuracy_shuffled": _mean(shuffled, pairs),
        "aspect_chance": Estimate(chance),
        "aspect_accuracy_references": Estimate(float(references.mean())),
    }


def _title_metrics(pairs: Sequence[ScoredPair]) -> Metrics:
    """Of pairs whose item has a title."""
    named = [pair for pair in pairs if pair.names_item or pair.other_title is not None]
    references = float(np.mean([bool(pair.reference_names_item) for pair in pairs]))
    right = [pair.other_title is None for pair in named]
    return {
        **({"title_accuracy": _mean(right, named)} if named else {}),
        "names_item": _mean([bool(pair.names_item) for pair in pairs], pairs),
        "names_item_references": Estimate(references),
        "names_another_item": _mean([pair.other_title is not None for pair in pairs], pairs),
    }


def _support_metrics(pairs: Sequence[ScoredPair]) -> Metrics:
    """Of pairs with planted aspects."""
    texts, aspects = [pair.explanation for pair in pairs], [pair.aspects or () for pair in pairs]
    supported = text_metrics.names_none_beside(texts, aspects, _pattern(pairs))
    return {"aspects_supported": _mean(supported, pairs)}


def _pattern(pairs: Sequence[ScoredPair]) -> re.Pattern[str]:
    return text_metrics.aspect_pattern(each for pair in pairs for each in pair.aspects or ())


def _likeness_metrics(pairs: Sequence[ScoredPair]) -> Metrics:
    explanations, references = _texts(pairs)
    return {
        "bleu": Estimate(text_metrics.corpus_bleu(explanations, references)),
        "rouge_l": _mean(text_metrics.rouge_l(explanations, references), pairs),
    }


def _embedding_metrics(pairs: Sequence[ScoredPair], config: EvaluateConfig, source: str) -> Metrics:
    device = str(resolve_device(config.device))
    encoder = load_encoder(source, device=device)
    scores = embedding_scores(encoder, *_texts(pairs))
    return {name: _mean(values, pairs) for name, values in scores.items()}


def _form_metrics(pairs: Sequence[ScoredPair]) -> Metrics:
    explanations, references = _texts(pairs)
    values = {
        "unique_sentence_ratio": text_metrics.unique_sentence_ratio(explanations),
        "mean_words": float(text_metrics.num_words(explanations).mean()),
        "mean_words_references": float(text_metrics.num_words(references).mean()),
    }
    return {name: Estimate(value) for name, value in values.items()}


def _texts(pairs: Sequence[ScoredPair]) -> tuple[list[str], list[str]]:
    return [pair.explanation for pair in pairs], [pair.reference for pair in pairs]
