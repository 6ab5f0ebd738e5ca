"""Which run a config asks for, and its plan; pairs are read only if need be."""

from collections.abc import Callable, Iterator
from typing import TypedDict

from xrec.backfill.identity import identify
from xrec.backfill.pairs import Batch, pair_batches, pairs_listing
from xrec.backfill.task import EXPLANATIONS
from xrec.bulk import BulkRun, Identity, RowFormat, open_run, published, read_status
from xrec.bulk.run import ROWS_PER_CHUNK, counted_rows, known_name, name_of
from xrec.config.backfill import BackfillConfig
from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactError, StorageError, TableError
from xrec.storage import open_location
from xrec.storage.delta import open_log

_SECONDS_PER_CHUNK = 30
_CHUNKS_PER_ACTOR = 4


class RunArguments(TypedDict):
    """What `open_run` gets."""

    uri: str
    identity: Identity
    format: RowFormat
    batches: Callable[[], Iterator[Batch]]
    listing: dict[str, list[str]]
    rows_per_chunk: Callable[[int], int]
    carry_from: str | None
    storage: StorageConfig


def open_backfill(config: BackfillConfig) -> BulkRun:
    """Plan the run of `config`, or open the plan that is there; pairs are read only if need be.

    Raises what `identify`, `pair_batches` and `open_run` raise.
    """
    return open_run(**run_arguments(config, identify(config)))


def run_arguments(config: BackfillConfig, identity: Identity) -> RunArguments:
    """What `open_run` gets for the run of `config`, whose identity is given."""
    uri = config.artifact("explanations")
    return {
        "uri": uri,
        "identity": identity,
        "format": EXPLANATIONS,
        "batches": lambda: _batches(config),
        "listing": pairs_listing(config),
        "rows_per_chunk": lambda num_pairs: _rows_per_chunk(config, num_pairs),
        "carry_from": uri if config.carry_from == "published" else config.carry_from,
        "storage": config.storage,
    }


def pairs_difference(arguments: RunArguments, *, exact: bool) -> tuple[str, ...] | None:
    """A line that says so if what is published is of other pairs than these.

    None if that is not known without reading the pairs, which is done if `exact`.
    """
    uri, identity = arguments["uri"], arguments["identity"]
    output = open_location(uri, arguments["storage"])
    log = open_log(output)
    entry = None if log is None else log.decided_by(log.version)
    commit = None if entry is None else entry.commit
    if commit is None or commit.manifest is None or commit.manifest.run != identity.run:
        return ()  # that its settings differ is seen without the pairs
    name = known_name(output, identity, arguments["listing"])
    if name is None and not exact:
        return None
    if name is None:
        schema = arguments["format"].key_schema
        with counted_rows(arguments["batches"](), schema) as (spill, _):
            name = name_of(identity, spill.fingerprint)
    return () if name == commit.run else ("pairs: others there than here",)


def _batches(config: BackfillConfig) -> Iterator[Batch]:
    """The pairs; raises what `published` raises if another output to carry over from has none."""
    if config.carry_from not in (None, "published"):
        published(config.carry_from, storage=config.storage)
    return pair_batches(config)


def _rows_per_chunk(config: BackfillConfig, num_pairs: int) -> int:
    """As the config says; else what takes half a minute, and gives each actor several chunks."""
    if config.rows_per_chunk is not None:
        return config.rows_per_chunk
    try:
        rate = read_status(config.artifact("explanations"), config.storage).rate
    except (ArtifactError, StorageError, TableError):
        rate = None
    size = ROWS_PER_CHUNK
    if rate is not None:
        size = round(_SECONDS_PER_CHUNK * rate.num_done / rate.costs["seconds"])
    return max(1, min(size, -(-num_pairs // (_CHUNKS_PER_ACTOR * config.actors.num_actors))))
