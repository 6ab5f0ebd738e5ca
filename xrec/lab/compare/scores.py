"""Scores of each entry's texts: a row a pair, kept beside them.

Processes of Ray load the scoring models once and take an entry at a time. What is there with the
same settings and inputs is taken; else it is made again: texts cost much more than what is measured
of them.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import SecretStr

from xrec.bulk.work.pool import map_in_processes
from xrec.bulk.work.ray_actors import gpus_each
from xrec.config.compare import CompareConfig
from xrec.config.text import EndpointModelConfig
from xrec.data.dataset import HeldOutPair, read_dataset
from xrec.errors import ArtifactMismatchError
from xrec.lab.compare.entries import ComparedPairs, Entry
from xrec.lab.compare.texts import EntryTexts
from xrec.lab.judge.judge import JudgeAccess
from xrec.lab.measures.measure import ScoredTexts
from xrec.lab.measures.measures import (
    load_measures,
    metrics_anywhere,
    metrics_identity,
    score_table,
)
from xrec.llm.model import resolve_device
from xrec.llm.source import anywhere
from xrec.progress import progress
from xrec.storage import MANIFEST, finished, location_of, manifest_of, write_manifest, write_table

logger = logging.getLogger("xrec")

_FILE = "scores.parquet"


@dataclass(frozen=True)
class Scored:
    """The scores of one entry: `table` as `score_table` gives it."""

    texts: ScoredTexts
    table: pa.Table


def _load_scorer(
    config: CompareConfig, pairs: Sequence[HeldOutPair], keys: Mapping[str, SecretStr | None]
) -> Callable[[ScoredTexts], pa.Table]:
    """Load the scoring models in this process; returns what scores the texts of an entry."""
    measures = load_measures(
        config.metrics,
        read_dataset(location_of(config, "dataset")),
        pairs,
        device=str(resolve_device(config.actors.device)),
        judges=JudgeAccess(
            replies=location_of(config, "comparison") / "judge-replies",
            storage=config.storage,
            llm=config.llm,
            device=config.actors.device,
            num_threads=config.actors.cpus_per_actor,
            keys=keys,
        ),
    )
    return partial(score_table, measures)


def _scored(
    config: CompareConfig, load: Callable[[], Any], texts: Sequence[ScoredTexts]
) -> Iterator[tuple[int, pa.Table]]:
    """Score in processes of Ray, as many as `actors` says; with GPUs each has one.

    If a judge is an endpoint it is one process, so that the endpoint's limits are kept.
    """
    actors, judges = config.actors, config.metrics.judges
    has_endpoint = any(isinstance(judge.model, EndpointModelConfig) for judge in judges)
    num_processes = 1 if has_endpoint else min(actors.num_actors, len(texts))
    return map_in_processes(
        load,
        texts,
        num_processes=num_processes,
        cpus=actors.cpus_per_actor,
        gpus=gpus_each(actors.device, num_processes),
    )


def _for_actors(config: CompareConfig) -> CompareConfig:
    """The config of actors, which may have another working directory."""
    metrics = metrics_anywhere(config.metrics)
    uris = {name: location_of(config, name).shared_uri for name in ("dataset", "comparison")}
    llm = None if config.llm is None else anywhere(config.llm)
    return config.model_copy(update={"metrics": metrics, "llm": llm, **uris})


def score_entries(
    config: CompareConfig,
    pairs: ComparedPairs,
    made: Mapping[Entry, EntryTexts],
    keys: Mapping[str, SecretStr | None],
) -> dict[Entry, Scored]:
    """The scores of all entries; Ray must be initialised.

    Raises the XRecError of a process that scores, or ClusterError.
    """
    settings = {
        "metrics": metrics_identity(config.metrics, llm=config.llm, storage=config.storage),
        "pairs": pairs.fingerprint,
    }
    dataset = manifest_of(config, "dataset").fingerprint
    inputs = {
        entry: {"texts": each.fingerprint, "dataset": dataset} for entry, each in made.items()
    }
    texts = {entry: ScoredTexts.of(pairs.pairs, each.texts) for entry, each in made.items()}
    tables = {entry: _kept(entry, settings, own) for entry, own in inputs.items()}
    left = [entry for entry, kept in tables.items() if kept is None]
    if left:
        load = partial(_load_scorer, _for_actors(config), pairs.pairs, keys)
        scored = _scored(config, load, [texts[entry] for entry in left])
        for place, table in progress(scored, "scoring", len(left)):
            entry = left[place]
            tables[entry] = table
            _keep(entry, table, settings, inputs[entry])
            logger.info("%s: scoring done", entry.title)
    return {
        entry: Scored(texts[entry], table) for entry, table in tables.items() if table is not None
    }


def _kept(entry: Entry, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> pa.Table | None:
    location = entry.location / "scores"
    try:
        if finished(location, "scores", settings, inputs) is None:
            return None
    except ArtifactMismatchError as error:
        logger.info("%s; they are made again", str(error).rsplit("\n", 1)[0])
        return None
    return pq.read_table(pa.BufferReader((location / _FILE).read_bytes()))


def _keep(
    entry: Entry, table: pa.Table, settings: Mapping[str, Any], inputs: Mapping[str, str]
) -> None:
    location = entry.location / "scores"
    (location / MANIFEST).delete()  # it is of another table
    write_manifest(
        location,
        "scores",
        config=settings,
        inputs=inputs,
        files={_FILE: write_table(location / _FILE, table, table.schema)},
        row_counts={"pairs": table.num_rows},
    )
