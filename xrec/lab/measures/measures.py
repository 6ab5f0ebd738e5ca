"""The measures of a comparison.

measures = measures_of(config, dataset, pairs)    # cheap; their metrics describe the table
score = load_scorer(measures, pairs)              # loads what they need
table = score(texts)                              # a row per pair, a column per metric
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from xrec.aspects import AspectChooser
from xrec.config import MetricsConfig, StorageConfig
from xrec.data import Dataset, HeldOutPair, taken
from xrec.evaluate.measure import Floats, Measure, Metric
from xrec.evaluate.text_metrics import aspect_pattern, corpus, names_only, overlap
from xrec.lab.measures.judge import JudgeAccess, judge_identity, judge_measures
from xrec.lab.measures.ranking import RANKING_METRICS, StatementsRanked, rankers
from xrec.lab.measures.specificity import SPECIFICITY_METRICS, Specificity
from xrec.lab.measures.statements import Statements, aspects_named, statements_made
from xrec.llm.source import encoder_folder, model_fingerprint

PAIR_COLUMNS = ("user_id", "item_id", "text")
"""The columns of a scorer's table that are not metrics."""
_VERSION = 8  # of the measures and their meaning; a new version scores everything again
_RIGHT_ASPECT = (Metric("aspect_accuracy", "Right aspect", is_share=True),)


def measures_of(
    config: MetricsConfig,
    dataset: Dataset,
    pairs: Sequence[HeldOutPair],
    *,
    device: str = "cpu",
    judges: JudgeAccess | None = None,
) -> list[Measure]:
    """Return the measures of the texts of `pairs`, two or more, in the order of the table.

    Those of aspects need a dataset with tables of aspects. device: of the models. judges: what the
    judges need to load. Loading raises ModelError if a model is not available.
    """
    references = [pair.reference for pair in pairs]
    titles = taken(dataset.items["title"], [pair.item_index for pair in pairs])
    found = [
        overlap(references),
        Measure(SPECIFICITY_METRICS, lambda: Specificity(pairs, titles).columns),
    ]
    if dataset.aspects is not None:
        statements = cache(lambda: Statements(dataset, pairs))

        def ranked(texts: Sequence[str]) -> list[Floats]:
            return StatementsRanked(statements()).columns(pairs, texts)

        found += [aspects_named(statements, pairs), statements_made(statements, pairs)]
        found.append(Measure(RANKING_METRICS, lambda: ranked))
    if dataset.planted is not None:
        pattern = aspect_pattern(dataset.planted["aspect"].unique().to_pylist())
        right = [pair.aspect for pair in pairs]
        found.append(
            Measure(_RIGHT_ASPECT, lambda: lambda texts: [names_only(texts, right, pattern)])
        )
    if config.encoder is not None:
        from xrec.evaluate.encoder import embedding  # imports torch

        found.append(embedding(config.encoder, references, device))
    if config.bart is not None or config.bleurt is not None:
        from xrec.lab.measures.learned import bart_score, bleurt  # imports torch

        found += [] if config.bart is None else [bart_score(config.bart, references, device)]
        found += [] if config.bleurt is None else [bleurt(config.bleurt, references, device)]
    return [*found, *judge_measures(config, dataset, pairs, judges)]


def load_scorer(
    measures: Sequence[Measure], pairs: Sequence[HeldOutPair]
) -> Callable[[Sequence[str]], pa.Table]:
    """Load what the measures need; return a function that scores a text of each pair.

    It returns a row per pair: user_id, item_id, text, and a float64 column for each metric, which
    is null if the metric is not defined for the pair.
    """
    loaded = [(measure.metrics, measure.load()) for measure in measures]

    def score(texts: Sequence[str]) -> pa.Table:
        columns: dict[str, Any] = {
            metric.name: values
            for metrics, score_texts in loaded
            for metric, values in zip(metrics, score_texts(texts), strict=True)
        }
        return pa.table(
            {
                "user_id": pa.array([pair.user_id for pair in pairs], pa.string()),
                "item_id": pa.array([pair.item_id for pair in pairs], pa.string()),
                "text": pa.array(texts, pa.string()),
                **{
                    name: pa.array(column, pa.float64(), mask=np.isnan(column))
                    for name, column in columns.items()
                },
            }
        )

    return score


def corpus_scores(pairs: Sequence[HeldOutPair], texts: Sequence[str]) -> dict[str, float]:
    """Return the metrics of all texts together."""
    measure = corpus([pair.reference for pair in pairs])
    scores = measure.load()(texts)
    both = zip(measure.metrics, scores, strict=True)
    return {metric.name: float(score) for metric, score in both}


def ranker_tables(dataset: Dataset, pairs: Sequence[HeldOutPair]) -> dict[str, pa.Table]:
    """Return the table of each ranker that needs no text; none for a dataset without aspects."""
    if dataset.aspects is None:
        return {}
    statements = Statements(dataset, pairs)

    def table(ranker: StatementsRanked) -> pa.Table:
        measure = Measure(RANKING_METRICS, lambda: lambda texts: ranker.columns(pairs, texts))
        return load_scorer([measure], pairs)([""] * len(pairs))

    made = rankers(statements, AspectChooser(dataset))
    return {name: table(ranker) for name, ranker in made.items()}


def table_metrics(config: MetricsConfig, dataset: Dataset) -> dict[str, Metric]:
    """Return all metrics of `config` by name, in the order of the table."""
    first, *others = measures_of(config, dataset, ())
    measures = [first, corpus(()), *others]
    return {metric.name: metric for measure in measures for metric in measure.metrics}


def metrics_identity(config: MetricsConfig, storage: StorageConfig | None = None) -> dict[str, Any]:
    """Return the settings that scores depend on, as plain JSON.

    A local model has its fingerprint, any other its name. Raises ModelError if a model's folder or
    package does not exist, so that this is noticed before anything is trained.
    """
    access = storage or StorageConfig()
    models: Mapping[str, str | None] = {
        "encoder": config.encoder,
        "bart": config.bart,
        "bleurt": config.bleurt,
    }
    return {
        "version": _VERSION,
        **{name: None if source is None else _known(source) for name, source in models.items()},
        "judges": [judge_identity(*judge, access) for judge in config.judges.items()],
        "claims": None
        if config.claims is None
        else judge_identity("claims", config.claims, access),
    }


def _known(source: str) -> dict[str, str]:
    folder = encoder_folder(source)
    known = {} if folder is None else {"fingerprint": model_fingerprint(folder)}
    return {"source": source, **known}
