"""The run that a config describes, its plan, and its pairs, which are read in batches.

The pairs come from the recommendations (with rank and score), from Parquet tables (rank and score
are optional), or from a split of the dataset. They are only read when a run is planned; a later
start compares `pairs_listing` with that of the plan.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from typing import get_args

import pyarrow as pa
import pyarrow.dataset as pads

from xrec.backfill.identity import identify, pairs_location
from xrec.bulk import (
    ROWS_PER_CHUNK,
    BulkRun,
    Identity,
    RowFormat,
    RunRequest,
    clean_keys,
    first_of,
    listing_of,
    open_log,
    open_run,
    published,
    read_status,
)
from xrec.config import (
    BackfillConfig,
    PromptFailure,
    RecommendedPairs,
    SplitPairs,
    TablePairs,
    TextFailure,
)
from xrec.data import Dataset, read_dataset, taken
from xrec.errors import ArtifactError, DataError, StorageError, TableError
from xrec.recommend import read_recommendations
from xrec.schemas import FAILED, GENERATED, GIVEN, PAIRS, RANKS
from xrec.storage import (
    Location,
    check_columns,
    location_of,
    open_location,
    read_manifest,
    storage_errors,
)

logger = logging.getLogger("xrec")

VERDICT = "gate-"
"""The first part of the names of a run's files with the verdicts of its gate."""
Batch = tuple[pa.Table, pa.Table]
"""Good pairs (schema PAIRS) and rejected rows (REJECTED)."""

_PLANNED = (*PAIRS.names, *GIVEN.names)
EXPLANATIONS = RowFormat(
    keys=tuple(PAIRS.names),
    given=GIVEN,
    ok=pa.schema([f for f in GENERATED if f.name not in _PLANNED]),
    failed=pa.schema([f for f in FAILED if f.name not in {*_PLANNED, "reason", "message"}]),
    reasons=("unknown_user", "unknown_item", *get_args(PromptFailure), *get_args(TextFailure)),
    expected_reasons=("abstained",),
    error_reason="engine_error",
    key_comments=tuple(field.metadata[b"comment"].decode() for field in PAIRS),
)
_BATCH_ROWS = 65_536
_SECONDS_PER_CHUNK = 30
_CHUNKS_PER_ACTOR = 4


def open_backfill(config: BackfillConfig) -> BulkRun:
    """Plan the run of `config`, or open its plan if there is one; only read pairs if necessary.

    Raises what `identify`, `pair_batches` and `open_run` raise.
    """
    return open_run(run_request(config, identify(config)))


def run_request(config: BackfillConfig, identity: Identity) -> RunRequest:
    uri = config.artifact("explanations")
    return RunRequest(
        uri,
        identity,
        EXPLANATIONS,
        lambda: pair_batches(config),
        listing=pairs_listing(config),
        rows_per_chunk=lambda num_pairs: _rows_per_chunk(config, num_pairs),
        limit=config.limit,
        carry_from=uri if config.carry_from == "published" else config.carry_from,
        may_carry=lambda record: _may_carry(record.folder(open_location(uri, config.storage))),
        storage=config.storage,
    )


def _may_carry(folder: Location) -> bool:
    """Return whether no gate refused a run for its texts."""
    names = [name for name in folder.sizes() if name.startswith(VERDICT)]
    return all(json.loads((folder / name).read_text()).get("keeps_texts") for name in names)


def pairs_difference(request: RunRequest, *, exact: bool) -> tuple[str, ...] | None:
    """Return a one-line difference if the published explanations cover other pairs, else nothing.

    Return None if only reading the pairs would show it and `exact` is false.
    """
    log = open_log(request.output)
    shown = None if log is None else log.shown(log.version)
    if shown is None or shown.manifest.run != request.identity.run:
        return ()  # differing settings are found without the pairs
    known = next(request.known(), None)
    if known is None and not exact:
        return None
    if known is not None:
        name = known.run
    else:
        with request.read_rows() as rows:
            name = request.name(rows)
    return () if name == shown.run else ("pairs: the published ones differ",)


def retry_reasons(config: BackfillConfig) -> tuple[str, ...]:
    """Return the reasons in `retry_failed`; raise ConfigError if one is unknown."""
    return EXPLANATIONS.check_reasons(config.retry_failed or ())


def _rows_per_chunk(config: BackfillConfig, num_pairs: int) -> int:
    """Return the config's value, else half a minute's rows, with several chunks per actor."""
    if config.rows_per_chunk is not None:
        return config.rows_per_chunk
    try:
        rate = read_status(config.artifact("explanations"), config.storage).rate
    except (ArtifactError, StorageError, TableError):
        rate = None
    size = ROWS_PER_CHUNK
    if rate is not None:
        size = round(_SECONDS_PER_CHUNK * rate.num_done / rate.costs["seconds"])
    return max(1, min(size, -(-num_pairs // (_CHUNKS_PER_ACTOR * config.num_processes))))


def pairs_listing(config: BackfillConfig) -> dict[str, list[str]]:
    """Return what shows whether the pairs changed since an earlier start, in a few small requests.

    For a table this is its files with sizes and ETags or times; for recommendations it is their
    fingerprint. Pairs of a split come from the dataset, which is part of the run's identity.

    Raises StorageError if the table cannot be listed, ArtifactNotFoundError if the recommendations
    are not finished.
    """
    source = config.pairs
    if isinstance(source, TablePairs):
        return listing_of(pairs_location(config, source))
    if isinstance(source, RecommendedPairs):
        location = pairs_location(config, source)
        return {location.uri: [read_manifest(location, "recommendations").fingerprint]}
    return {}


def pair_batches(config: BackfillConfig) -> Iterator[Batch]:
    """Yield the pairs of `config.pairs`, and the rows with invalid ids, one batch at a time.

    Raises DataError if a table cannot be read, or if more than `max_failed_share` of all rows are
    rejected; ConfigError if k exceeds that of the recommendations; ArtifactNotFoundError if the
    dataset or the recommendations are not finished, or if nothing is published at the output to
    carry over from.
    """
    if config.carry_from not in (None, "published") and "/_xrec/runs/" not in config.carry_from:
        published(config.carry_from, storage=config.storage)
    return _count_rejected(_batches(config), config.max_failed_share)


def _batches(config: BackfillConfig) -> Iterator[Batch]:
    source = config.pairs
    if isinstance(source, TablePairs):
        return table_batches(pairs_location(config, source))
    if isinstance(source, RecommendedPairs):
        location = pairs_location(config, source)
        return _clean(read_recommendations(location), location.uri)
    dataset = read_dataset(location_of(config, "dataset"))
    return _clean(_from_split(dataset, source), config.artifact("dataset"))


def _count_rejected(batches: Iterable[Batch], max_share: float) -> Iterator[Batch]:
    num_rows, num_rejected, first = 0, 0, ""
    for good, bad in batches:
        num_rows += good.num_rows + bad.num_rows
        num_rejected += bad.num_rows
        first = first or first_of(bad)
        yield good, bad
    if not num_rejected:
        return
    message = (
        f"{num_rejected} of {num_rows} rows of pairs have ids that are neither strings "
        f"nor integers{first}"
    )
    if num_rejected > max_share * num_rows:
        raise DataError(
            f"{message}; this is more than max_failed_share = {max_share}. Correct them, or raise "
            "max_failed_share",
            code="too_many_rejected",
            key="max_failed_share",
            saw=num_rejected,
        )
    logger.warning("%s; they are left out", message)


def _clean(tables: Iterable[pa.Table], file: str) -> Iterator[Batch]:
    first_line = 1
    for table in tables:
        yield clean_keys(table, PAIRS.names, file=file, first_line=first_line, given=GIVEN)
        first_line += table.num_rows


def table_batches(location: Location) -> Iterator[Batch]:
    """Yield the pairs of a Parquet file or folder; otherwise like `pair_batches`."""
    with storage_errors(location.uri):
        try:
            files = pads.dataset(
                location.path, filesystem=location.arrow_filesystem(), format="parquet"
            ).get_fragments()
            for file in files:
                uri = f"{location.uri}{file.path.removeprefix(location.path)}"
                yield from _clean(_tables(file, uri), uri)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(
                f"{location}: expected Parquet files with columns user_id and item_id "
                f"of strings or integers: {error}",
                code="broken_file",
                key="pairs.uri",
                saw=location.uri,
            ) from error


def _tables(file: pads.ParquetFileFragment, uri: str) -> Iterator[pa.Table]:
    """Yield the ids, ranks and scores of a file, with its types, which may differ by file."""
    schema = file.physical_schema
    check_columns(uri, PAIRS.names, tuple(schema.names))
    columns = [*PAIRS.names, *(name for name in RANKS.names if name in schema.names)]
    for batch in file.to_batches(
        schema=schema, columns=columns, batch_size=_BATCH_ROWS, batch_readahead=2
    ):
        yield pa.Table.from_batches([batch])


def _from_split(dataset: Dataset, source: SplitPairs) -> Iterator[pa.Table]:
    pairs = dataset.explained_pairs(source.split)
    for start in range(0, pairs.num_rows, _BATCH_ROWS):
        rows = pairs.slice(start, _BATCH_ROWS)
        columns = {
            f"{what}_id": taken(table[f"{what}_id"], rows[f"{what}_index"].to_pylist())
            for what, table in (("user", dataset.users), ("item", dataset.items))
        }
        yield pa.table(columns, schema=PAIRS)
