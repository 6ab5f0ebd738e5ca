"""All measures of a comparison: made once in a process, then asked for any pairs.

measures = load_measures(config, dataset, pairs, device="cpu")
table = measures.of_pairs(texts)         # a row a pair, a column a metric
figures = measures.of_corpus(texts)      # of all texts together
measures.missing                         # what could not be had, why, and how to get it
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from xrec.config.llm import LLMConfig
from xrec.config.metrics import EncoderConfig, MetricsConfig
from xrec.config.shared import StorageConfig
from xrec.data.dataset import Dataset
from xrec.data.held_out import HeldOutPair
from xrec.errors import ModelError
from xrec.evaluate.encoder import encoder_folder, load_encoder
from xrec.lab.judge.judge import Judge
from xrec.lab.judge.load import (
    JudgeAccess,
    describe_judge,
    judge_identity,
    load_judge,
)
from xrec.lab.judge.tally import Tally
from xrec.lab.measures.aspects import AspectsNamed
from xrec.lab.measures.bart_score import BartScore, bart_score_infos
from xrec.lab.measures.bleurt import Bleurt, bleurt_infos
from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.lab.measures.corpus import CorpusMeasures
from xrec.lab.measures.embedding import EmbeddingScore, embedding_infos
from xrec.lab.measures.measure import Floats, MetricInfo, PairMeasure
from xrec.lab.measures.overlap import Overlap
from xrec.lab.measures.planted import RightAspect
from xrec.lab.measures.specificity import Specificity
from xrec.llm.source import model_fingerprint
from xrec.text import LanguageModel

logger = logging.getLogger("xrec")

_VERSION = 4  # of the measures and what they mean; with another one all is scored again

NO_ASPECTS = "aspects"
"""What is missing of a dataset without tables of aspects."""
PAIR_COLUMNS = ("user_id", "item_id", "text")
"""The columns of `Measures.of_pairs` that are no metrics."""


def lacks_a_model(missing: Iterable[str]) -> bool:
    """Whether a metric is missing that may be there next time: those of aspects depend on data."""
    return not set(missing) <= {NO_ASPECTS}


@dataclass(frozen=True, eq=False)
class Measures:
    """Measures of pairs by name, and those of a corpus.

    missing: a sentence for each measure that could not be made.
    tallies: what each judge costs and fails at, by its name.
    """

    pair_measures: Mapping[str, PairMeasure]
    corpus: CorpusMeasures
    missing: Mapping[str, str] = field(default_factory=dict)
    tallies: Mapping[str, Tally] = field(default_factory=dict)

    def of_pairs(self, texts: ContestantTexts) -> pa.Table:
        """One row a pair, in order: user_id, item_id, text, and a float64 column for each metric.

        A metric that is not defined for a pair is null there. A row depends on nothing of the other
        rows.
        """
        values: dict[str, Floats] = {}
        for measure in self.pair_measures.values():
            values |= measure.of_pairs(texts)
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

    def of_corpus(self, texts: ContestantTexts) -> dict[str, float]:
        """See CorpusMeasures."""
        return self.corpus.of_corpus(texts)

    def taken_costs(self) -> dict[str, float]:
        """What judges cost, and failed at, since the last call.

        Counts by `<judge>:prompt_tokens`, `reply_tokens`, `requests` and `failed:<reason>`.
        """
        return {
            f"{judge}:{name}": count
            for judge, tally in self.tallies.items()
            for name, count in tally.taken().items()
        }


def load_measures(
    config: MetricsConfig,
    dataset: Dataset,
    pairs: Sequence[HeldOutPair],
    *,
    device: str,
    cache_dir: str | None = None,
    judges: JudgeAccess | None = None,
) -> Measures:
    """The measures of `config`; those of judges need `judges`.

    pairs: all pairs that the comparison scores, two or more; specificity compares with their
        references. device: of encoder and scoring models.

    A measure whose model cannot be had is `missing`, and the others are there. Raises ConfigError
    if a judge's prompt cannot be used.
    """
    titles = dataset.items["title"].take([pair.item_index for pair in pairs]).to_pylist()
    made: dict[str, PairMeasure] = {"overlap": Overlap(), "specificity": Specificity(pairs, titles)}
    missing = dict(_without_aspects(dataset))
    aspects = None if missing else AspectsNamed(dataset)
    if aspects is not None:
        made["aspects"] = aspects
    if dataset.planted is not None:
        made["planted"] = RightAspect(dataset)
    makers = _model_measures(config, device, cache_dir) | _judges(config, judges)
    for name, make in makers.items():
        try:
            made[name] = make()
        except ModelError as error:
            missing[name] = str(error)
            logger.warning("%s is left out: %s", name, error)
    tallies = {each.name: each.tally for each in made.values() if isinstance(each, Judge)}
    return Measures(made, CorpusMeasures(aspects), missing, tallies)


def corpus_measures(dataset: Dataset) -> CorpusMeasures:
    """The measures of a corpus alone, which need no model."""
    return CorpusMeasures(None if _without_aspects(dataset) else AspectsNamed(dataset))


def describe_metrics(
    config: MetricsConfig, dataset: Dataset, llm: LLMConfig | None = None
) -> dict[str, MetricInfo]:
    """All metrics of `config` in the order of tables, whether their models can be had or not.

    llm: of the job, for judges that name none.
    """
    infos = [*Overlap.infos, *corpus_measures(dataset).infos, *Specificity.infos]
    if not _without_aspects(dataset):
        infos += AspectsNamed.infos
    if dataset.planted is not None:
        infos += RightAspect.infos
    if config.encoder is not None:
        infos += embedding_infos(config.encoder)
    if config.bart_score is not None:
        infos += bart_score_infos(config.bart_score)
    if config.bleurt is not None:
        infos += bleurt_infos(config.bleurt)
    for judge in config.judges:
        infos += describe_judge(judge, llm)
    return {info.name: info for info in infos}


def metrics_identity(
    config: MetricsConfig, *, llm: LLMConfig | None = None, storage: StorageConfig | None = None
) -> dict[str, Any]:
    """The settings that scores depend on, as plain JSON, for the identity of what is scored.

    A model that is a folder here has its fingerprint; of one that is not here there is the name.
    Raises ConfigError for a judge's prompt that cannot be used.
    """
    settings = config.model_dump(mode="json", exclude={"batch_size", "judges"})
    settings["version"] = _VERSION
    access = storage or StorageConfig()
    settings["judges"] = [judge_identity(judge, llm, access) for judge in config.judges]
    for section in ("encoder", "bart_score", "bleurt"):
        if settings[section] is not None:
            settings[section] |= _fingerprint(settings[section]["source"])
    return settings


def _fingerprint(source: str) -> dict[str, str]:
    try:
        folder = encoder_folder(source)
    except ModelError:
        return {}
    return {} if folder is None else {"fingerprint": model_fingerprint(folder)}


def _judges(
    config: MetricsConfig, access: JudgeAccess | None
) -> dict[str, Callable[[], PairMeasure]]:
    """What makes each judge."""
    if not config.judges:
        return {}
    if access is None:
        raise ValueError("the config has judges; expected `judges` that says how to reach them")
    loaded: dict[str, LanguageModel] = {}  # judges of the same model share it
    return {
        f"judge {judge.name}": partial(load_judge, judge, access, loaded) for judge in config.judges
    }


def _model_measures(
    config: MetricsConfig, device: str, cache_dir: str | None
) -> dict[str, Callable[[], PairMeasure]]:
    """What makes each measure that needs a model."""
    made: dict[str, Callable[[], PairMeasure]] = {}
    if config.encoder is not None:
        made["embedding"] = partial(
            _embedding, config.encoder, config.batch_size, device=device, cache_dir=cache_dir
        )
    for name, measure, section in (
        ("bart_score", BartScore, config.bart_score),
        ("bleurt", Bleurt, config.bleurt),
    ):
        if section is not None:
            made[name] = partial(
                measure,
                section,
                batch_size=config.batch_size,
                device=device,
                cache_dir=cache_dir,
            )
    return made


def _embedding(
    config: EncoderConfig, batch_size: int, *, device: str, cache_dir: str | None
) -> EmbeddingScore:
    encoder = load_encoder(config.source, layer=config.layer, device=device, cache_dir=cache_dir)
    return EmbeddingScore(encoder, config.baseline, batch_size)


def _without_aspects(dataset: Dataset) -> dict[str, str]:
    if dataset.aspects is not None and dataset.explanation_aspects is not None:
        return {}
    return {
        NO_ASPECTS: "the dataset has no tables of aspects; make it of annotations "
        "(docs/annotate.md), or set prepare.aspects_from (docs/data.md), and run `xrec prepare` "
        "again"
    }
