"""`xrec prepare`: from raw files, or the sample's generator, to the dataset artifact."""

import logging
from collections.abc import Mapping
from typing import Any

from xrec.config.data import PrepareConfig, ReleaseSource, SampleSource
from xrec.data.assemble import Assembled, assemble, check_not_empty
from xrec.data.dataset import write_dataset
from xrec.data.findings import check_rejected_share, count_reasons, rejected_table
from xrec.data.release import find_release_files, read_release
from xrec.data.sample import generate_town, town_source
from xrec.data.source import SourceData
from xrec.data.tables import find_table_files, read_tables
from xrec.storage import Location, Manifest, check_access, content_hash, finished, open_location

logger = logging.getLogger("xrec")


def prepare_dataset(config: PrepareConfig) -> Manifest:
    """Make the dataset at its output URI and return its manifest; nothing is written if anything is wrong.

    The same run finished before: its manifest, no work. Raises StorageError (source or output cannot be used), DataError
    (files missing or broken), ArtifactMismatchError (the output URI holds another run's artifact).
    """
    output = open_location(config.artifact("dataset"), config.storage)
    check_access(output, config.storage)
    files = _read_files(config)
    identity = _content_config(config)
    inputs = {name: content_hash(data) for name, data in files.items()}
    if manifest := finished(output, "dataset", identity, inputs):
        logger.info("%s: this dataset is already there", output)
        return manifest
    source = _read_source(config, files)
    assembled = assemble(source, config.splits)
    check_rejected_share(
        assembled.findings, source.num_rows, config.max_rejected_share, _source_name(config)
    )
    check_not_empty(assembled.tables)
    metrics = {**assembled.metrics, "num_rejected": count_reasons(assembled.findings)}
    manifest = write_dataset(
        output,
        assembled.tables,
        rejected_table(assembled.findings),
        config=identity,
        inputs=inputs,
        metrics=metrics,
    )
    _report(output, assembled)
    return manifest


def _read_files(config: PrepareConfig) -> dict[str, bytes]:
    """The content of the source's files by name; the sample has none."""
    if isinstance(config.source, SampleSource):
        return {}
    folder = open_location(config.source.uri, config.storage)
    check_access(folder, config.storage)
    find = find_release_files if isinstance(config.source, ReleaseSource) else find_table_files
    return {name: location.read_bytes() for name, location in find(folder).items()}


def _read_source(config: PrepareConfig, files: Mapping[str, bytes]) -> SourceData:
    if isinstance(config.source, SampleSource):
        return town_source(generate_town(config.source))
    return read_release(files) if isinstance(config.source, ReleaseSource) else read_tables(files)


def _source_name(config: PrepareConfig) -> str:
    return "sample" if isinstance(config.source, SampleSource) else config.source.uri


def _content_config(config: PrepareConfig) -> dict[str, Any]:
    """What the content depends on: not where the files lie, for their hashes are among the inputs."""
    values = config.model_dump(mode="json", include={"source", "splits", "max_rejected_share"})
    return {
        **values,
        "source": {key: value for key, value in values["source"].items() if key != "uri"},
    }


def _report(output: Location, assembled: Assembled) -> None:
    counts = ", ".join(f"{table.num_rows} {name}" for name, table in assembled.tables.items())
    metrics = assembled.metrics
    logger.info("%s: %s", output, counts)
    logger.info(
        "%d training edges removed, since their explanation is held out; without a training edge: %d users, %d items",
        metrics["num_removed_edges"],
        metrics["num_users_without_train_edge"],
        metrics["num_items_without_train_edge"],
    )
    for reason, count in count_reasons(assembled.findings).items():
        logger.warning("%s: %d rows left out (see rejected.parquet)", reason, count)
