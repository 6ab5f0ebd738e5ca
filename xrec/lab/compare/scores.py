"""Scores of each entry's texts: a row a pair, kept beside them.

Processes of Ray load the scoring models once and take an entry at a time. Scores lie in a file that
is named by all that they depend on; what is there is taken.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import SecretStr

from xrec.config import CompareConfig, EndpointModelConfig
from xrec.data import HeldOutPair, read_dataset
from xrec.lab.compare.entries import ComparedPairs, Entry
from xrec.lab.compare.figures import Run
from xrec.lab.compare.texts import EntryTexts
from xrec.lab.measures.judge import JudgeAccess
from xrec.lab.measures.measure import ScoredTexts
from xrec.lab.measures.measures import load_measures, metrics_identity, of_corpus, score_table
from xrec.llm.model import resolve_device
from xrec.processes import gpus_each, map_in_processes
from xrec.progress import progress
from xrec.storage import fingerprint_of, location_of, manifest_of, write_table

logger = logging.getLogger("xrec")


def _load_scorer(
    config: CompareConfig, pairs: Sequence[HeldOutPair], keys: Mapping[str, SecretStr | None]
) -> Callable[[ScoredTexts], pa.Table]:
    """Load the scoring models in this process; returns what scores the texts of an entry."""
    measures = load_measures(
        config,
        read_dataset(location_of(config, "dataset")),
        pairs,
        device=str(resolve_device(config.actors.device)),
        judges=JudgeAccess(
            replies=location_of(config, "comparison") / "judge-replies",
            storage=config.storage,
            device=config.actors.device,
            num_threads=config.actors.cpus,
            keys=keys,
        ),
    )
    return partial(score_table, measures)


def score_entries(
    config: CompareConfig,
    pairs: ComparedPairs,
    made: Mapping[Entry, EntryTexts],
    keys: Mapping[str, SecretStr | None],
) -> dict[Entry, Run]:
    """The scores of all entries; Ray must be initialised.

    Raises the XRecError of a process that scores, or ClusterError.
    """
    identity = {
        "metrics": metrics_identity(config, config.storage),
        "pairs": pairs.fingerprint,
        "dataset": manifest_of(config, "dataset").fingerprint,
    }
    texts = {entry: ScoredTexts.of(pairs.pairs, each.texts) for entry, each in made.items()}
    files = {
        entry: entry.location / f"scores-{fingerprint_of([identity, each.fingerprint])}.parquet"
        for entry, each in made.items()
    }
    tables = {
        entry: pq.read_table(pa.BufferReader(file.read_bytes()))
        for entry, file in files.items()
        if file.is_file()
    }
    left = [entry for entry in made if entry not in tables]
    if left:
        load = partial(_load_scorer, config, pairs.pairs, keys)
        actors, models = config.actors, config.judges.values()
        # One process asks an endpoint, so that its limits are kept.
        has_endpoint = any(isinstance(each, EndpointModelConfig) for each in models)
        num_processes = 1 if has_endpoint else min(actors.num_processes, len(left))
        scored = map_in_processes(
            load,
            [texts[entry] for entry in left],
            num_processes=num_processes,
            cpus=actors.cpus,
            gpus=gpus_each(actors.device, num_processes),
        )
        for place, table in progress(scored, "scoring", len(left)):
            entry = left[place]
            tables[entry] = table
            write_table(files[entry], table, table.schema)
            logger.info("%s: scoring done", entry.title)
    return {entry: Run(tables[entry], of_corpus(texts[entry])) for entry in made}
