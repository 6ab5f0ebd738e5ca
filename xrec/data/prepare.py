"""The dataset artifact from a source: a folder of files, or the sample's generator.

Which source the configuration names is decided by the caller (jobs/prepare.py), which knows all
readers.
"""

import logging
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from xrec.config.data import PrepareConfig
from xrec.data.aspects import RULES_VERSION, AspectFinder, profile_aspect_tables
from xrec.data.assemble import Assembled, assemble, check_not_empty
from xrec.data.dataset import ASPECTS_FROM, AspectsFrom, write_dataset
from xrec.data.source import (
    Source,
    SourceData,
    check_rejected_share,
    count_reasons,
    rejected_table,
)
from xrec.storage import Location, Manifest, check_access, finished, location_of

logger = logging.getLogger("xrec")


def prepare_dataset(
    config: PrepareConfig, source: Source, find_aspects: AspectFinder | None = None
) -> Manifest:
    """Make the dataset from `source` at its output URI, and return its manifest.

    `find_aspects` finds the aspects of profiles where `config.aspects_from` asks for them.

    If the same run was finished before, its manifest is returned and nothing is done. If anything
    is wrong, nothing is written. Raises StorageError if source or output cannot be used, DataError
    if files are missing or broken, ArtifactMismatchError if the output holds another run's
    artifact.
    """
    output = location_of(config, "dataset")
    check_access(output, config.storage)
    files = source.contents()
    identity = dataset_settings(config)
    inputs = source.hashes(files)
    if manifest := finished(output, "dataset", identity, inputs):
        logger.info("%s: this dataset is already there", output)
        return manifest
    raw = source.read(files)
    assembled = assemble(raw, config.splits)
    check_rejected_share(assembled.findings, raw.num_rows, config.max_rejected_share, source.name)
    check_not_empty(assembled.tables)
    tables = dict(assembled.tables)
    if find_aspects is not None:
        tables.update(profile_aspect_tables(tables, find_aspects))
    aspects_from: AspectsFrom = "reviews" if find_aspects is None else "profiles"
    metrics = {
        **assembled.metrics,
        **({ASPECTS_FROM: aspects_from} if "aspects" in tables else {}),
        "num_rejected": count_reasons(assembled.findings),
        "num_without_table": _rows_without_table(raw),
    }
    manifest = write_dataset(
        output,
        tables,
        rejected_table(assembled.findings),
        config=identity,
        inputs=inputs,
        metrics=metrics,
    )
    _report(output, assembled, tables, raw)
    return manifest


def dataset_settings(config: PrepareConfig) -> dict[str, Any]:
    """The settings that the dataset's content depends on.

    The place of the files is none of them: the manifest's inputs have the files' hashes.
    """
    values = config.model_dump(mode="json", include={"source", "splits", "max_rejected_share"})
    values["source"].pop("uri", None)
    if config.aspects_from is not None:
        rules = config.aspects_from.model_dump(mode="json")
        values[ASPECTS_FROM] = {**rules, "version": RULES_VERSION}
    return values


def _rows_without_table(raw: SourceData) -> dict[str, int]:
    """The users or items that the source has no table of, and whose ids come from the pairs."""
    counts = {"users": raw.users.num_rows, "items": raw.items.num_rows}
    return {table: count for table, count in counts.items() if table in raw.missing_tables}


def _report(
    output: Location, assembled: Assembled, tables: Mapping[str, pa.Table], raw: SourceData
) -> None:
    counts = ", ".join(f"{table.num_rows} {name}" for name, table in tables.items())
    metrics = assembled.metrics
    logger.info("%s: %s", output, counts)
    logger.info(
        "%d training edges removed, since their explanation is held out; "
        "without a training edge: %d users, %d items",
        metrics["num_removed_edges"],
        metrics["num_users_without_train_edge"],
        metrics["num_items_without_train_edge"],
    )
    for table, count in _rows_without_table(raw).items():
        message = "no table of %s: %d ids come from the pairs, and their texts are empty"
        logger.warning(message, table, count)
    if tables["explanations"].num_rows == 0:
        logger.warning("no explanations: a graph can be trained on this dataset, an adapter cannot")
    for reason, count in count_reasons(assembled.findings).items():
        logger.warning("%s: %d rows left out (see rejected.parquet)", reason, count)
