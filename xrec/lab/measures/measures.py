"""All measures of a comparison: made once in a process, then asked for any pairs.

measures = load_measures(config, dataset, pairs, device="cpu")
table = score_table(measures, texts)     # a row a pair, a column a metric
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from xrec.aspects import AspectChooser
from xrec.config import MetricsConfig, StorageConfig
from xrec.data import Dataset, HeldOutPair, taken
from xrec.evaluate.text_metrics import aspect_pattern, corpus_bleu, rouge_l
from xrec.lab.measures.judge import JudgeAccess, describe_judge, judge_identity, load_judge
from xrec.lab.measures.measure import Floats, MetricInfo, PairMeasure, ScoredTexts
from xrec.lab.measures.ranking import StatementsRanked, rankers
from xrec.lab.measures.specificity import Specificity
from xrec.lab.measures.statements import (
    ASPECT_INFOS,
    RIGHT_ASPECT_INFO,
    STATEMENT_INFOS,
    Statements,
    aspects_named,
    right_aspect,
    statements_made,
)
from xrec.llm.source import encoder_folder, model_fingerprint
from xrec.text import LanguageModel

_VERSION = 7  # of the measures and what they mean; with another one all is scored again
_OVERLAP_INFOS = (
    MetricInfo("coverage", "Coverage"),
    MetricInfo("words", "Words, mean", 1),
    MetricInfo("rouge_l", "ROUGE-L F1"),
)
_CORPUS_INFOS = (MetricInfo("bleu", "BLEU, 0 to 100", 2), MetricInfo("usr", "USR"))
_EMBEDDING_LABELS = {
    "embedding_precision": "Embedding P",
    "embedding_recall": "Embedding R",
    "embedding_f1": "Embedding F1",
    "sentence_cosine": "Sentence cosine",
}


def overlap(texts: ScoredTexts) -> dict[str, Floats]:
    """Coverage, words and ROUGE-L (F1, 0 to 1, no stemming); a PairMeasure."""
    return {
        "coverage": texts.has_text.astype(np.float64),
        "words": np.array([len(text.split()) for text in texts.texts], dtype=np.float64),
        "rouge_l": rouge_l(texts.texts, texts.references),
    }


def of_corpus(texts: ScoredTexts) -> dict[str, float]:
    """BLEU, and the USR of NETE (Li et al., CIKM 2020), of all texts of an entry together.

    Both depend on the number of texts: compare entries on the same pairs only.
    """
    return {
        "bleu": corpus_bleu(texts.texts, texts.references),
        "usr": len({tuple(text.split()) for text in texts.texts}) / len(texts),
    }


def score_table(measures: Sequence[PairMeasure], texts: ScoredTexts) -> pa.Table:
    """One row a pair, in order: user_id, item_id, text, and a float64 column for each metric.

    A metric that is not defined for a pair is null there. A row depends on nothing of the other
    rows.
    """
    values: dict[str, Floats] = {}
    for measure in measures:
        values |= measure(texts)
    return pa.table(
        {
            "user_id": pa.array([pair.user_id for pair in texts.pairs], pa.string()),
            "item_id": pa.array([pair.item_id for pair in texts.pairs], pa.string()),
            "text": pa.array(texts.texts, pa.string()),
            **{
                name: pa.array(column, pa.float64(), mask=np.isnan(column))
                for name, column in values.items()
            },
        }
    )


def load_measures(
    config: MetricsConfig,
    dataset: Dataset,
    pairs: Sequence[HeldOutPair],
    *,
    device: str,
    judges: JudgeAccess | None = None,
) -> list[PairMeasure]:
    """The measures of `config`, in the order of their columns; those of judges need `judges`.

    pairs: all pairs that the comparison scores, two or more; specificity compares with their
        references. device: of the encoder.

    Those of aspects are there only if the dataset has tables of aspects. Raises ModelError if the
    model of an encoder or a judge cannot be had.
    """
    titles = taken(dataset.items["title"], [pair.item_index for pair in pairs])
    made: list[PairMeasure] = [overlap, Specificity(pairs, titles).of_pairs]
    if dataset.aspects is not None:
        statements = Statements(dataset, pairs)
        made += [partial(each, statements) for each in (aspects_named, statements_made)]
        made.append(StatementsRanked(statements).of_pairs)
    if dataset.planted is not None:
        planted = dataset.planted["aspect"].unique().to_pylist()
        made.append(partial(right_aspect, aspect_pattern(planted)))
    if config.encoder is not None:
        from xrec.evaluate.encoder import embedding_scores, load_encoder  # they import torch

        encoder = load_encoder(config.encoder, device=device)
        made.append(lambda texts: embedding_scores(encoder, texts.texts, texts.references))
    loaded: dict[str, LanguageModel] = {}  # judges of the same model share it
    for name, model in config.judges.items():
        assert judges is not None
        made.append(load_judge(name, model, judges, loaded).of_pairs)
    return made


def ranker_tables(dataset: Dataset, pairs: Sequence[HeldOutPair]) -> dict[str, pa.Table]:
    """The table of each ranker that needs no text; none for a dataset without aspects."""
    if dataset.aspects is None:
        return {}
    texts = ScoredTexts.of(pairs, {})
    found = rankers(Statements(dataset, pairs), AspectChooser(dataset))
    return {name: score_table([ranker.of_pairs], texts) for name, ranker in found.items()}


def describe_metrics(config: MetricsConfig, dataset: Dataset) -> dict[str, MetricInfo]:
    """All metrics of `config` in the order of tables."""
    infos = [*_OVERLAP_INFOS, *_CORPUS_INFOS, *Specificity.infos]
    if dataset.aspects is not None:
        infos += [*ASPECT_INFOS, *STATEMENT_INFOS, *StatementsRanked.infos]
    if dataset.planted is not None:
        infos.append(RIGHT_ASPECT_INFO)
    if config.encoder is not None:
        by = config.encoder.rsplit("/", 1)[-1].removeprefix("pypi:")
        infos += [MetricInfo(name, f"{label} ({by})") for name, label in _EMBEDDING_LABELS.items()]
    for name in config.judges:
        infos += describe_judge(name)
    return {info.name: info for info in infos}


def metrics_identity(config: MetricsConfig, storage: StorageConfig | None = None) -> dict[str, Any]:
    """The settings that scores depend on, as plain JSON, for the identity of what is scored.

    A model that is a folder here has its fingerprint; of one that is not here there is the name.
    Raises ModelError for an encoder's folder or package that is not there: before anything is
    trained.
    """
    access, encoder = storage or StorageConfig(), None
    if config.encoder is not None:
        folder = encoder_folder(config.encoder)
        known = {} if folder is None else {"fingerprint": model_fingerprint(folder)}
        encoder = {"source": config.encoder, **known}
    return {
        "version": _VERSION,
        "encoder": encoder,
        "judges": [judge_identity(*judge, access) for judge in config.judges.items()],
    }
