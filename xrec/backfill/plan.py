"""Which run a config asks for, and its plan; pairs are read only if need be."""

from collections.abc import Callable, Iterator
from typing import TypedDict

from xrec.backfill.identity import identify, output_uri
from xrec.backfill.pairs import Batch, pair_batches, pairs_listing
from xrec.backfill.task import EXPLANATIONS
from xrec.bulk import BulkRun, Identity, RowFormat, open_run
from xrec.bulk.plan import PlanRecord, count_rows, read_record
from xrec.config.backfill import BackfillConfig
from xrec.config.shared import StorageConfig
from xrec.errors import StorageNotFoundError
from xrec.storage import open_location


class RunArguments(TypedDict):
    """What `open_run` gets."""

    uri: str
    identity: Identity
    format: RowFormat
    batches: Callable[[], Iterator[Batch]]
    listing: dict[str, list[str]]
    rows_per_chunk: int
    carry_from: str | None
    storage: StorageConfig


def open_backfill(config: BackfillConfig) -> BulkRun:
    """Plan the run of `config`, or open the plan that is there; pairs are read only if need be.

    Raises ArtifactMismatchError, which names the fields that differ, if the output holds another
    run; what `identify`, `pair_batches` and `open_run` raise.
    """
    return open_run(**run_arguments(config, identify(config)))


def run_arguments(config: BackfillConfig, identity: Identity) -> RunArguments:
    """What `open_run` gets for the run of `config`, whose identity is given."""
    return {
        "uri": output_uri(config, identity.run),
        "identity": identity,
        "format": EXPLANATIONS,
        "batches": lambda: pair_batches(config),
        "listing": pairs_listing(config),
        "rows_per_chunk": config.rows_per_chunk,
        "carry_from": config.carry_from,
        "storage": config.storage,
    }


def pairs_were_written(arguments: RunArguments) -> bool:
    """True if the run is planned, and the files of its pairs are others than those of the plan."""
    record = _record(arguments)
    return record is not None and record.listing != arguments["listing"]


def pairs_difference(arguments: RunArguments) -> tuple[str, ...]:
    """A line that says so if the pairs are others than those of the plan; they are all read."""
    record = _record(arguments)
    counts = count_rows(
        arguments["batches"](),
        arguments["format"].key_schema,
        rows_per_chunk=arguments["rows_per_chunk"],
    )
    if record is None or record.rows_fingerprint == counts.rows_fingerprint:
        return ()
    return (f"pairs: {record.num_rows} there, {counts.num_rows} here, and not the same ones",)


def _record(arguments: RunArguments) -> PlanRecord | None:
    """The plan of this very run; None if there is none."""
    try:
        record = read_record(open_location(arguments["uri"], arguments["storage"]))
    except StorageNotFoundError:
        return None
    return record if record.identity.run == arguments["identity"].run else None
