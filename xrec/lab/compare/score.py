"""Scores of each entry's texts: a row a pair, kept beside the texts.

Processes load the scoring models once and take an entry at a time; with GPUs, each has one.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from pydantic import SecretStr

from xrec.bulk.pool import map_in_processes
from xrec.bulk.ray_actors import gpus_each
from xrec.config.comparison import ComparisonConfig
from xrec.data.dataset import read_dataset
from xrec.data.held_out import HeldOutPair
from xrec.errors import DataError
from xrec.lab.compare.entries import Entry, kept_manifest
from xrec.lab.compare.made import Made
from xrec.lab.compare.pairs import ComparedPairs
from xrec.lab.judge import JudgeAccess
from xrec.lab.measures import (
    lacks_a_model,
    load_measures,
    metrics_anywhere,
    metrics_identity,
)
from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.llm.model import resolve_device
from xrec.llm.source import anywhere
from xrec.progress import progress
from xrec.storage import (
    MANIFEST,
    Location,
    location_of,
    manifest_of,
    write_manifest,
    write_table,
)

logger = logging.getLogger("xrec")

_FILE, _MISSING, _JUDGE_COSTS = "scores.parquet", "missing", "judge_costs"


@dataclass(frozen=True)
class Scored:
    """The scores of one entry: `table` as `Measures.of_pairs` gives it.

    missing: a sentence for each metric that could not be had when these were made.
    judge_costs: what judges were asked and failed at, as `Measures.taken_costs` says.
    """

    texts: ContestantTexts
    table: pa.Table
    missing: Mapping[str, str]
    fingerprint: str
    judge_costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """What a process found for some texts; the fields are as in Scored."""

    table: pa.Table
    missing: Mapping[str, str]
    judge_costs: Mapping[str, float]


@dataclass(frozen=True)
class ScoringTask:
    """What a process needs in order to score; `keys` are those of judges that are endpoints."""

    config: ComparisonConfig
    pairs: Sequence[HeldOutPair]
    keys: Mapping[str, SecretStr | None]


class Scorer:
    """Scores the texts of one entry after the other."""

    def __init__(self, task: ScoringTask) -> None:
        config = task.config
        self._measures = load_measures(
            config.metrics,
            read_dataset(location_of(config, "dataset")),
            task.pairs,
            device=str(resolve_device(config.device)),
            cache_dir=None if config.llm is None else config.llm.cache_dir,
            judges=JudgeAccess(
                replies=location_of(config, config.makes) / "judge-replies",
                storage=config.storage,
                llm=config.llm,
                device=config.device,
                num_threads=config.actors.cpus_per_actor,
                keys=task.keys,
            ),
        )

    def score(self, texts: ContestantTexts) -> Scores:
        """The scores of the texts."""
        table = self._measures.of_pairs(texts)
        return Scores(table, dict(self._measures.missing), self._measures.taken_costs())


ScoreAll = Callable[[ScoringTask, Sequence[ContestantTexts]], Iterator[tuple[int, Scores]]]
"""The place and the scores of each of some texts, in any order."""


def score_here(task: ScoringTask, texts: Sequence[ContestantTexts]) -> Iterator[tuple[int, Scores]]:
    """Score in this process."""
    scorer = Scorer(task)
    for place, each in enumerate(texts):
        yield place, scorer.score(each)


def score_on_ray(
    task: ScoringTask, texts: Sequence[ContestantTexts]
) -> Iterator[tuple[int, Scores]]:
    """Score in processes of Ray, as many as `actors` says and there are texts.

    They share the limits of judges that are endpoints. Ray must be initialised. Raises the
    XRecError of a process, or ClusterError.
    """
    actors = task.config.actors
    num_actors = min(actors.num_actors, len(texts))
    if task.config.device == "cuda":
        num_actors = max(1, min(num_actors, int(ray.cluster_resources().get("GPU", 0))))
    task = replace(task, config=_for_actors(task.config, num_actors))
    return map_in_processes(
        lambda: Scorer(task).score,
        texts,
        num_processes=num_actors,
        cpus=actors.cpus_per_actor,
        gpus=gpus_each(task.config.device, num_actors),
    )


def _for_actors(config: ComparisonConfig, num_actors: int) -> ComparisonConfig:
    """The config of each of so many actors, which may have another working directory."""
    metrics = metrics_anywhere(config.metrics, config.storage).shared_among(num_actors)
    uris = {name: location_of(config, name).shared_uri for name in ("dataset", config.makes)}
    llm = None if config.llm is None else anywhere(config.llm)
    return config.model_copy(update={"metrics": metrics, "llm": llm, **uris})


def score_entries(
    config: ComparisonConfig,
    pairs: ComparedPairs,
    made: Mapping[Entry, Made],
    keys: Mapping[str, SecretStr | None],
    score_all: ScoreAll = score_on_ray,
) -> dict[Entry, Scored]:
    """The scores of all entries; what is there with the same texts and settings is taken.

    `config.device` is the one that scores are recorded as made on, and not `auto`.
    """
    assert config.device != "auto"
    entries = list(made)
    texts = {entry: _texts(entry, pairs, made[entry]) for entry in entries}
    found = {entry: _kept(config, pairs, entry, made[entry], texts[entry]) for entry in entries}
    left = [entry for entry in entries if found[entry] is None]
    if left:
        task = ScoringTask(config, pairs.pairs, keys)
        each_scored = score_all(task, [texts[entry] for entry in left])
        for place, scores in progress(each_scored, "scoring", len(left)):
            entry = left[place]
            found[entry] = _keep(config, pairs, entry, made[entry], texts[entry], scores)
    return {entry: scored for entry in entries if (scored := found[entry]) is not None}


def _texts(entry: Entry, pairs: ComparedPairs, made: Made) -> ContestantTexts:
    there = {ids: text for ids, text in made.texts.items() if text is not None}
    try:
        return ContestantTexts.of(pairs.pairs, there)
    except DataError as error:
        raise DataError(f"contestant {entry.contestant!r}: {error}") from error


def _identity(
    config: ComparisonConfig, pairs: ComparedPairs, made: Made
) -> tuple[dict[str, Any], dict[str, str]]:
    settings = {
        "metrics": metrics_identity(config.metrics, llm=config.llm, storage=config.storage),
        "pairs": pairs.fingerprint,
        "device": config.device,
    }
    return settings, {
        "texts": made.fingerprint,
        "dataset": manifest_of(config, "dataset").fingerprint,
    }


def _kept(
    config: ComparisonConfig, pairs: ComparedPairs, entry: Entry, made: Made, texts: ContestantTexts
) -> Scored | None:
    """The entry's scores; None without any, or if they are of other texts or settings.

    Such are made again: texts cost much more than their scores. So are those that lack a metric
    for want of its model, which may be there now.
    """
    location = entry.location / "scores"
    manifest = kept_manifest(location, "scores", *_identity(config, pairs, made))
    if manifest is None or lacks_a_model(manifest.metrics[_MISSING]):
        return None
    return Scored(
        texts,
        _read(location),
        manifest.metrics[_MISSING],
        manifest.fingerprint,
        manifest.metrics.get(_JUDGE_COSTS, {}),
    )


def _keep(
    config: ComparisonConfig,
    pairs: ComparedPairs,
    entry: Entry,
    made: Made,
    texts: ContestantTexts,
    scores: Scores,
) -> Scored:
    location, (settings, inputs) = entry.location / "scores", _identity(config, pairs, made)
    (location / MANIFEST).delete()  # it is of other scores
    table, missing, costs = scores.table, scores.missing, scores.judge_costs
    manifest = write_manifest(
        location,
        "scores",
        config=settings,
        inputs=inputs,
        files={_FILE: write_table(location / _FILE, table, table.schema)},
        row_counts={"pairs": table.num_rows},
        metrics={_MISSING: missing, _JUDGE_COSTS: costs},
    )
    logger.info("%s: scored, coverage %.3f", entry.name, texts.coverage)
    return Scored(texts, table, missing, manifest.fingerprint, costs)


def _read(location: Location) -> pa.Table:
    return pq.read_table(pa.BufferReader((location / _FILE).read_bytes()))
