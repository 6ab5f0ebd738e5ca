"""All metrics of an evaluation by name, with 95 % intervals for means over pairs."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from xrec.config import EvaluateConfig
from xrec.evaluate import text_metrics
from xrec.evaluate.descriptions import DESCRIPTIONS
from xrec.evaluate.encoder import embedding_scores, load_encoder
from xrec.evaluate.intervals import Estimate, mean_interval
from xrec.evaluate.scores import ScoredPair
from xrec.llm.model import resolve_device

Metrics = dict[str, Estimate]


def compute_metrics(pairs: Sequence[ScoredPair], config: EvaluateConfig) -> Metrics:
    """Return the metrics of `pairs`, in the order in which they are shown.

    xrec.evaluate.descriptions explains them. Aspect metrics are included only if aspects are
    planted, title metrics only if items have titles, embedding scores only if an encoder is
    configured. Raises ModelError if the encoder cannot be loaded.
    """
    weighed = [pair for pair in pairs if pair.gain is not None]
    planted = [pair for pair in pairs if pair.aspect is not None]
    titled = [pair for pair in pairs if pair.names_item is not None]
    found = {
        "coverage": _mean([bool(pair.explanation) for pair in pairs], pairs),
        **(_signal_metrics(weighed) if weighed else {}),
        **(_aspect_metrics(planted) if planted else {}),
        **(_title_metrics(titled) if titled else {}),
        **_text_metrics(pairs, config),
    }
    return {name: found[name] for name in sorted(found, key=list(DESCRIPTIONS).index)}


def flat_metrics(metrics: Mapping[str, Estimate]) -> dict[str, float]:
    """Return plain numbers for JSON: `name`, and `name_low` and `name_high` of intervals."""
    flat: dict[str, float] = {}
    for name, estimate in metrics.items():
        flat[name] = estimate.value
        if estimate.low is not None and estimate.high is not None:
            flat |= {f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return flat


def _mean(values: ArrayLike, pairs: Sequence[ScoredPair]) -> Estimate:
    assert np.isfinite(np.asarray(values, dtype=np.float64)).all()  # mean_interval would ignore NaN
    return mean_interval(values, [pair.user_id for pair in pairs])


def _signal_metrics(pairs: Sequence[ScoredPair]) -> Metrics:
    return {
        "personalization_gain": _mean(np.array([pair.gain for pair in pairs], np.float64), pairs),
        "nll_own": _mean(np.array([pair.nll_own for pair in pairs], np.float64), pairs),
    }


def _aspect_metrics(pairs: Sequence[ScoredPair]) -> Metrics:
    """Return the metrics of pairs with a planted aspect; naming one that the item lacks is wrong.

    A refused text counts as wrong, both with the user's own vector and with another user's.
    """
    pattern = text_metrics.aspect_pattern(each for pair in pairs for each in pair.aspects or ())
    right, aspects = [pair.aspect or "" for pair in pairs], [pair.aspects or () for pair in pairs]
    texts = [pair.explanation for pair in pairs]
    shuffled = [pair.shuffled_explanation or "" for pair in pairs]
    references = [pair.reference for pair in pairs]
    own, of_others, of_references = (
        text_metrics.names_only(each, right, pattern) for each in (texts, shuffled, references)
    )
    return {
        "aspect_accuracy": _mean(own, pairs),
        "aspect_accuracy_shuffled": _mean(of_others, pairs),
        "aspect_chance": Estimate(float(np.mean([1 / len(set(each)) for each in aspects]))),
        "aspect_accuracy_references": Estimate(float(of_references.mean())),
        "aspects_supported": _mean(text_metrics.names_none_beside(texts, aspects, pattern), pairs),
    }


def _title_metrics(pairs: Sequence[ScoredPair]) -> Metrics:
    """Return the metrics of pairs whose item has a title."""
    named = [pair for pair in pairs if pair.names_item or pair.other_title is not None]
    right = [pair.other_title is None for pair in named]
    return {
        **({"title_accuracy": _mean(right, named)} if named else {}),
        "names_item": _mean([bool(pair.names_item) for pair in pairs], pairs),
        "names_another_item": _mean([pair.other_title is not None for pair in pairs], pairs),
    }


def _text_metrics(pairs: Sequence[ScoredPair], config: EvaluateConfig) -> Metrics:
    """Return the metrics of texts compared with their references, and of texts alone."""
    texts, references = [pair.explanation for pair in pairs], [pair.reference for pair in pairs]
    found = {
        "bleu": Estimate(text_metrics.corpus_bleu(texts, references)),
        "rouge_l": _mean(text_metrics.rouge_l(texts, references), pairs),
        "unique_sentence_ratio": Estimate(len(set(texts)) / len(texts)),
        "mean_words": Estimate(_mean_words(texts)),
        "mean_words_references": Estimate(_mean_words(references)),
    }
    if config.encoder is not None:
        encoder = load_encoder(config.encoder, device=str(resolve_device("auto")))
        scores = embedding_scores(encoder, texts, references)
        found |= {name: _mean(values, pairs) for name, values in scores.items()}
    return found


def _mean_words(texts: Sequence[str]) -> float:
    return float(np.mean([len(text.split()) for text in texts]))
