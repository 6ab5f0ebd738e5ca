"""Scores of each entry's texts, one row per pair, kept next to the texts.

Ray processes load the scoring models once and score an entry at a time. The name of a file of
scores has a hash of everything that they depend on, so existing files are reused.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import SecretStr

from xrec.config import CompareConfig, EndpointModelConfig
from xrec.data import HeldOutPair, read_dataset
from xrec.evaluate.measure import visible
from xrec.lab.compare.entries import ComparedPairs, Entry
from xrec.lab.compare.figures import Run
from xrec.lab.compare.texts import EntryTexts
from xrec.lab.measures.judge import JudgeAccess
from xrec.lab.measures.measures import (
    corpus_scores,
    load_scorer,
    measures_of,
    metrics_identity,
)
from xrec.llm.model import resolve_device
from xrec.processes import gpus_each, map_in_processes
from xrec.progress import progress
from xrec.storage import fingerprint_of, location_of, manifest_of, write_table

logger = logging.getLogger("xrec")


def _load_scorer(
    config: CompareConfig, pairs: Sequence[HeldOutPair], keys: Mapping[str, SecretStr | None]
) -> Callable[[Sequence[str]], pa.Table]:
    """Load the scoring models in this process; return a function that scores an entry's texts."""
    measures = measures_of(
        config,
        read_dataset(location_of(config, "dataset")),
        pairs,
        device=str(resolve_device(config.actors.device)),
        judges=JudgeAccess(
            job=config,
            device=config.actors.device,
            num_threads=config.actors.cpus,
            keys=keys,
        ),
    )
    return load_scorer(measures, pairs)


def score_entries(
    config: CompareConfig,
    pairs: ComparedPairs,
    made: Mapping[Entry, EntryTexts],
    keys: Mapping[str, SecretStr | None],
) -> dict[Entry, Run]:
    """Return the scores of all entries; Ray must be initialized.

    Raises the XRecError of a scoring process, and ClusterError.
    """
    identity = {
        "metrics": metrics_identity(config, config.storage),
        "pairs": pairs.fingerprint,
        "dataset": manifest_of(config, "dataset").fingerprint,
    }
    texts = {
        entry: [visible(each.texts.get(pair.ids)) for pair in pairs.pairs]
        for entry, each in made.items()
    }
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
        actors, models = config.actors, (*config.judges.values(), config.claims)
        # Only one process asks an endpoint, so that its limits hold.
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
    return {entry: Run(tables[entry], corpus_scores(pairs.pairs, texts[entry])) for entry in made}
