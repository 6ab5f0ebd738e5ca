"""The ablation: variants side by side on the same pairs, and the artifact that holds the table.

Intervals are by user: users are drawn, each with all of their pairs. Differences to the full
variant are paired.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from xrec.evaluate import text_metrics
from xrec.evaluate.ablation_report import render_ablation
from xrec.evaluate.aspects import aspect_pattern, names_only
from xrec.evaluate.bootstrap import Estimate, bootstrap_mean
from xrec.evaluate.embedding_score import embedding_scores
from xrec.evaluate.encoder import TextEncoder
from xrec.evaluate.metrics import flat_metrics
from xrec.evaluate.scores import SCORED_PAIRS, ScoredPair
from xrec.storage import (
    Location,
    Manifest,
    write_contents,
    write_manifest,
    write_table,
)

FULL = "full"
ABLATION_REPORT = "report.md"
VariantMetrics = dict[str, dict[str, Estimate]]

# `metrics.parquet` of the ablation artifact: one row a variant and metric.
ABLATION_METRICS = pa.schema(
    [
        pa.field("variant", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
    ]
)
ABLATION_PAIRS = pa.schema([pa.field("variant", pa.string(), nullable=False), *SCORED_PAIRS])


def compute_ablation(
    scores: Mapping[str, Sequence[ScoredPair]],
    *,
    encoder: TextEncoder | None,
    batch_size: int,
    num_samples: int,
    seed: int,
) -> VariantMetrics:
    """The metrics of each variant.

    `scores` are of the same pairs in the same order (`of_the_same_pairs`).
    `nll_above_full` is the variant's NLL minus the full one's, of the same pair: above 0, the full
    variant is better. Metrics of texts are there if texts were asked for, `aspect_accuracy` if
    aspects are planted too; a refused text counts as an empty one.
    """
    full = np.array([score.nll_own for score in scores[FULL]], dtype=np.float64)

    def mean(values: ArrayLike, of: Sequence[ScoredPair]) -> Estimate:
        return bootstrap_mean(
            values, [score.user_id for score in of], num_samples=num_samples, seed=seed
        )

    metrics: VariantMetrics = {}
    for variant, rows in scores.items():
        own, shuffled = (
            np.array([score.nll_own for score in rows], dtype=np.float64),
            np.array([score.nll_shuffled for score in rows], dtype=np.float64),
        )
        metrics[variant] = {
            "nll_own": mean(own, rows),
            "nll_shuffled": mean(shuffled, rows),
            "personalization_gain": mean(shuffled - own, rows),
        }
        if variant != FULL:
            metrics[variant]["nll_above_full"] = mean(own - full, rows)
        written = [score for score in rows if score.explanation is not None]
        if written:
            metrics[variant] |= {
                name: mean(values, written)
                for name, values in _text_scores(written, encoder, batch_size).items()
            }
            metrics[variant]["bleu"] = Estimate(text_metrics.corpus_bleu(*_texts(written)))
    return metrics


def _text_scores(
    written: Sequence[ScoredPair], encoder: TextEncoder | None, batch_size: int
) -> dict[str, ArrayLike]:
    """Of each pair of which a text was asked for."""
    explanations, references = _texts(written)
    scores: dict[str, ArrayLike] = {"coverage": [bool(text) for text in explanations]}
    aspects = [score.aspect for score in written if score.aspect is not None]
    if len(aspects) == len(written):
        scores["aspect_accuracy"] = names_only(explanations, aspects, aspect_pattern(aspects))
    scores["rouge_l"] = text_metrics.rouge_l(explanations, references)
    if encoder is not None:
        scores["embedding_f1"] = embedding_scores(encoder, explanations, references, batch_size).f1
    return scores


def _texts(written: Sequence[ScoredPair]) -> tuple[list[str], list[str]]:
    return [score.text for score in written], [score.reference for score in written]


def write_ablation(
    location: Location,
    scores: Mapping[str, Sequence[ScoredPair]],
    metrics: VariantMetrics,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> Manifest:
    """Write metrics (Parquet and JSON), pairs and report, and the manifest last.

    `scores` and `metrics` are those of `compute_ablation`.
    """
    values = {
        variant: {name: asdict(estimate) for name, estimate in of_variant.items()}
        for variant, of_variant in metrics.items()
    }
    rows = [
        {"variant": variant, "metric": name, **value}
        for variant, of_variant in values.items()
        for name, value in of_variant.items()
    ]
    pairs = [
        {"variant": variant, **asdict(score)}
        for variant, of_variant in scores.items()
        for score in of_variant
    ]
    files = {
        "metrics.parquet": write_table(
            location / "metrics.parquet",
            pa.Table.from_pylist(rows, schema=ABLATION_METRICS),
            ABLATION_METRICS,
        ),
        "pairs.parquet": write_table(
            location / "pairs.parquet",
            pa.Table.from_pylist(pairs, schema=ABLATION_PAIRS),
            ABLATION_PAIRS,
        ),
    }
    num_pairs, num_users = len(scores[FULL]), len({score.user_id for score in scores[FULL]})
    texts = {
        "metrics.json": json.dumps(values, indent=2, allow_nan=False) + "\n",
        ABLATION_REPORT: render_ablation(metrics, num_pairs, num_users),
    }
    files |= write_contents(location, texts)
    flat = {variant: flat_metrics(of_variant) for variant, of_variant in metrics.items()}
    return write_manifest(
        location,
        "ablation",
        config=config,
        inputs=inputs,
        files=files,
        row_counts={"pairs": num_pairs},
        metrics=flat,
    )
