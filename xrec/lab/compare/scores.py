"""Scores of each entry's texts: a row a pair, kept beside the texts.

Processes load the scoring models once and take an entry at a time; with GPUs, each has one.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import ray
from pydantic import SecretStr

from xrec.bulk.pool import map_in_processes
from xrec.bulk.ray_actors import gpus_each
from xrec.config.compare import CompareConfig
from xrec.data.dataset import HeldOutPair, read_dataset
from xrec.lab.compare.entries import Entry, keep_table, kept_table
from xrec.lab.compare.pairs import ComparedPairs
from xrec.lab.compare.texts import EntryTexts
from xrec.lab.judge import JudgeAccess
from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.lab.measures.measures import load_measures, metrics_anywhere, metrics_identity
from xrec.llm.model import resolve_device
from xrec.llm.source import anywhere
from xrec.progress import progress
from xrec.storage import (
    location_of,
    manifest_of,
)

logger = logging.getLogger("xrec")


@dataclass(frozen=True)
class Scored:
    """The scores of one entry: `table` as `Measures.of_pairs` gives it."""

    texts: ContestantTexts
    table: pa.Table
    fingerprint: str


@dataclass(frozen=True)
class ScoringTask:
    """What a process needs in order to score; `keys` are those of judges that are endpoints."""

    config: CompareConfig
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
                replies=location_of(config, "comparison") / "judge-replies",
                storage=config.storage,
                llm=config.llm,
                device=config.device,
                num_threads=config.actors.cpus_per_actor,
                keys=task.keys,
            ),
        )

    def score(self, texts: ContestantTexts) -> pa.Table:
        """The scores of the texts."""
        return self._measures.of_pairs(texts)


ScoreAll = Callable[[ScoringTask, Sequence[ContestantTexts]], Iterator[tuple[int, pa.Table]]]
"""The place and the scores of each of some texts, in any order."""


def score_on_ray(
    task: ScoringTask, texts: Sequence[ContestantTexts]
) -> Iterator[tuple[int, pa.Table]]:
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


def _for_actors(config: CompareConfig, num_actors: int) -> CompareConfig:
    """The config of each of so many actors, which may have another working directory."""
    metrics = metrics_anywhere(config.metrics).shared_among(num_actors)
    uris = {name: location_of(config, name).shared_uri for name in ("dataset", "comparison")}
    llm = None if config.llm is None else anywhere(config.llm)
    return config.model_copy(update={"metrics": metrics, "llm": llm, **uris})


def score_entries(
    config: CompareConfig,
    pairs: ComparedPairs,
    made: Mapping[Entry, EntryTexts],
    keys: Mapping[str, SecretStr | None],
    score_all: ScoreAll = score_on_ray,
) -> dict[Entry, Scored]:
    """The scores of all entries; what is there with the same texts and settings is taken."""
    settings = {
        "metrics": metrics_identity(config.metrics, llm=config.llm, storage=config.storage),
        "pairs": pairs.fingerprint,
    }
    dataset = manifest_of(config, "dataset").fingerprint
    inputs = {
        entry: {"texts": each.fingerprint, "dataset": dataset} for entry, each in made.items()
    }
    texts = {entry: ContestantTexts.of(pairs.pairs, each.texts) for entry, each in made.items()}
    found = {
        entry: kept_table(entry.location / "scores", "scores", settings, inputs[entry])
        for entry in made
    }
    left = [entry for entry in made if found[entry] is None]
    if left:
        task = ScoringTask(config, pairs.pairs, keys)
        each_scored = score_all(task, [texts[entry] for entry in left])
        for place, table in progress(each_scored, "scoring", len(left)):
            entry = left[place]
            location = entry.location / "scores"
            manifest = keep_table(location, "scores", table, settings, inputs[entry])
            found[entry] = table, manifest
            logger.info("%s: scored, coverage %.3f", entry.name, texts[entry].coverage)
    return {
        entry: Scored(texts[entry], each[0], each[1].fingerprint)
        for entry in made
        if (each := found[entry]) is not None
    }
