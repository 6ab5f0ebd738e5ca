"""Scores of each entry's texts, and likelihoods of the references: a row a pair, kept beside them.

Processes of Ray load the scoring models once and take an entry at a time. Likelihoods are those of
entries with an adapter, with each user's own vector, and with another user's: what of it is the
vector's. What is there with the same settings and inputs is taken; else it is made again: texts
cost much more than what is measured of them.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from pydantic import SecretStr

from xrec.backfill.identity import sources_of
from xrec.bulk.work.pool import map_in_processes
from xrec.bulk.work.ray_actors import gpus_each
from xrec.config.compare import CompareConfig
from xrec.config.entries import ADAPTERS
from xrec.data.dataset import HeldOutPair, read_dataset
from xrec.errors import ArtifactMismatchError
from xrec.evaluate.scores import other_users
from xrec.generate.loading import Sources, load_explainer
from xrec.generate.scoring import fitting_pairs, nll_own_and_shuffled
from xrec.lab.compare.entries import SEED, ComparedPairs, Entry
from xrec.lab.compare.make import adapter_runs
from xrec.lab.compare.texts import EntryTexts
from xrec.lab.judge.judge import JudgeAccess
from xrec.lab.measures.measure import MetricInfo, ScoredTexts
from xrec.lab.measures.measures import load_measures, metrics_anywhere, metrics_identity
from xrec.llm.model import resolve_device
from xrec.llm.source import anywhere
from xrec.progress import progress
from xrec.schemas import PAIRS
from xrec.storage import (
    MANIFEST,
    Kind,
    finished,
    location_of,
    manifest_of,
    read_manifest,
    write_manifest,
    write_table,
)

logger = logging.getLogger("xrec")

LIKELIHOODS = pa.schema(
    [*PAIRS, pa.field("nll", pa.float64()), pa.field("personalization_gain", pa.float64())]
)
"""A row a pair; null where the prompt is too long."""
LIKELIHOOD_INFOS = (
    MetricInfo("nll", "NLL, nats a token", 4),
    MetricInfo("personalization_gain", "Gain of the own vector, nats a token", 4),
)
Tables = Iterator[tuple[int, pa.Table]]
"""Tables as they are done, each with its position among what was asked for."""


@dataclass(frozen=True)
class Scored:
    """The scores of one entry: `table` as `Measures.of_pairs` gives it, likelihoods behind it."""

    texts: ScoredTexts
    table: pa.Table


@dataclass(frozen=True)
class Task:
    """What a process needs to score texts, or to weigh the references of the pairs.

    keys: of judges that are endpoints.
    """

    config: CompareConfig
    pairs: Sequence[HeldOutPair]
    keys: Mapping[str, SecretStr | None] = field(default_factory=dict)

    def load_scorer(self) -> Callable[[ScoredTexts], pa.Table]:
        """Load the scoring models in this process; returns what scores the texts of an entry."""
        config = self.config
        return load_measures(
            config.metrics,
            read_dataset(location_of(config, "dataset")),
            self.pairs,
            device=str(resolve_device(config.device)),
            cache_dir=None if config.llm is None else config.llm.cache_dir,
            judges=JudgeAccess(
                replies=location_of(config, "comparison") / "judge-replies",
                storage=config.storage,
                llm=config.llm,
                device=config.device,
                num_threads=config.actors.cpus_per_actor,
                keys=self.keys,
            ),
        ).of_pairs

    def weigh(self, sources: Sources) -> pa.Table:
        """The table LIKELIHOODS by an adapter's model; raises what `load_explainer` raises."""
        config, pairs = self.config, self.pairs
        explainer = load_explainer(sources, device=config.actors.device, engine=config.engine)
        users = other_users([pair.user_id for pair in pairs], SEED)
        others = [explainer.dataset.user_index(user) for user in users]
        weighed = nll_own_and_shuffled(explainer, pairs, others, fitting_pairs(explainer, pairs))
        rows = [
            {
                "user_id": pair.user_id,
                "item_id": pair.item_id,
                "nll": own,
                "personalization_gain": None if own is None or other is None else other - own,
            }
            for pair, (own, other) in zip(pairs, weighed, strict=True)
        ]
        return pa.Table.from_pylist(rows, LIKELIHOODS)


ScoreAll = Callable[[Task, Sequence[ScoredTexts]], Tables]


def score_on_ray(task: Task, texts: Sequence[ScoredTexts]) -> Tables:
    """Score in processes of Ray, as many as `actors` says and there are texts.

    They share the limits of judges that are endpoints; with GPUs each has one. Ray must be
    initialised. Raises the XRecError of a process, or ClusterError.
    """
    actors = task.config.actors
    num_actors = min(actors.num_actors, len(texts))
    if task.config.device == "cuda":
        num_actors = max(1, min(num_actors, int(ray.cluster_resources().get("GPU", 0))))
    task = replace(task, config=_for_actors(task.config, num_actors))
    return map_in_processes(
        task.load_scorer,
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
    """The scores of all entries."""
    settings = {
        "metrics": metrics_identity(config.metrics, llm=config.llm, storage=config.storage),
        "pairs": pairs.fingerprint,
    }
    dataset = manifest_of(config, "dataset").fingerprint
    inputs = {
        entry: {"texts": each.fingerprint, "dataset": dataset} for entry, each in made.items()
    }
    texts = {entry: ScoredTexts.of(pairs.pairs, each.texts) for entry, each in made.items()}

    def score(left: Sequence[Entry]) -> Tables:
        task = Task(config, pairs.pairs, keys)
        return score_all(task, [texts[entry] for entry in left])

    found = _kept_or_made("scores", "scoring", settings, inputs, score)
    return {entry: Scored(texts[entry], table) for entry, table in found.items()}


WeighAll = Callable[[Task, Sequence[Sources]], Tables]


def weigh_on_ray(task: Task, adapters: Sequence[Sources]) -> Tables:
    """Weigh in processes of Ray, each of which loads one adapter and ends; Ray must be initialised.

    As many are at work as `actors` says. Raises the XRecError of a process, or ClusterError.
    """
    actors, engine = task.config.actors, task.config.engine
    at_once = min(actors.num_actors, len(adapters))
    return map_in_processes(
        lambda: task.weigh,
        adapters,
        num_processes=at_once,
        cpus=actors.cpus_per_actor,
        gpus=gpus_each(actors.device, at_once, engine.tensor_parallel_size),
        fresh=True,
    )


def with_likelihoods(
    config: CompareConfig,
    pairs: ComparedPairs,
    scored: Mapping[Entry, Scored],
    weigh_all: WeighAll = weigh_on_ray,
) -> dict[Entry, Scored]:
    """The same, with likelihoods as further columns of entries with an adapter, if asked for."""
    if not config.likelihood:
        return dict(scored)
    settings = {"pairs": pairs.fingerprint, "dtype": config.language_model.dtype}
    inputs = {
        entry: {"adapter": read_manifest(entry.location / "adapter", "adapter").fingerprint}
        for entry in scored
        if entry.name in ADAPTERS
    }

    def weigh(left: Sequence[Entry]) -> Tables:
        sources = [sources_of(adapter_runs(config, entry, pairs.uri)[1]) for entry in left]
        return weigh_all(Task(config, pairs.pairs), sources)

    found = _kept_or_made("likelihoods", "weighing references", settings, inputs, weigh)
    tables = {entry: each.table for entry, each in scored.items()}
    for entry, likelihoods in found.items():
        for info in LIKELIHOOD_INFOS:
            tables[entry] = tables[entry].append_column(info.name, likelihoods[info.name])
    return {entry: replace(each, table=tables[entry]) for entry, each in scored.items()}


def _kept_or_made(
    kind: Kind,
    doing: str,
    settings: Mapping[str, Any],
    inputs: Mapping[Entry, Mapping[str, str]],
    make: Callable[[Sequence[Entry]], Tables],
) -> dict[Entry, pa.Table]:
    """The table of each entry; `make` makes those that are not there."""
    found = {entry: _kept(entry, kind, settings, own) for entry, own in inputs.items()}
    left = [entry for entry, kept in found.items() if kept is None]
    if left:
        for place, table in progress(make(left), doing, len(left)):
            entry = left[place]
            found[entry] = table
            _keep(entry, kind, table, settings, inputs[entry])
            logger.info("%s: %s done", entry.title, doing)
    return {entry: table for entry, table in found.items() if table is not None}


def _kept(
    entry: Entry, kind: Kind, settings: Mapping[str, Any], inputs: Mapping[str, str]
) -> pa.Table | None:
    location = entry.location / kind
    try:
        if finished(location, kind, settings, inputs) is None:
            return None
    except ArtifactMismatchError as error:
        logger.info("%s; they are made again", str(error).rsplit("\n", 1)[0])
        return None
    return pq.read_table(pa.BufferReader((location / f"{kind}.parquet").read_bytes()))


def _keep(
    entry: Entry,
    kind: Kind,
    table: pa.Table,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> None:
    location, name = entry.location / kind, f"{kind}.parquet"
    (location / MANIFEST).delete()  # it is of another table
    files = {name: write_table(location / name, table, table.schema)}
    counts = {"pairs": table.num_rows}
    write_manifest(location, kind, config=settings, inputs=inputs, files=files, row_counts=counts)
