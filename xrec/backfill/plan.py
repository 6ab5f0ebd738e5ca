"""Which run a config asks for, and its plan; pairs are read only if need be."""

from collections.abc import Iterator

from xrec.backfill.identity import identify
from xrec.backfill.pairs import Batch, pair_batches, pairs_listing
from xrec.backfill.task import EXPLANATIONS
from xrec.bulk import BulkRun, Identity, RunRequest, open_run, published, read_status
from xrec.bulk.request import ROWS_PER_CHUNK
from xrec.config.backfill import BackfillConfig
from xrec.errors import ArtifactError, StorageError, TableError
from xrec.storage.delta import open_log

_SECONDS_PER_CHUNK = 30
_CHUNKS_PER_ACTOR = 4


def open_backfill(config: BackfillConfig) -> BulkRun:
    """Plan the run of `config`, or open the plan that is there; pairs are read only if need be.

    Raises what `identify`, `pair_batches` and `open_run` raise.
    """
    return open_run(run_request(config, identify(config)))


def run_request(config: BackfillConfig, identity: Identity) -> RunRequest:
    """The run of `config`, whose identity is given."""
    uri = config.artifact("explanations")
    return RunRequest(
        uri,
        identity,
        EXPLANATIONS,
        lambda: _batches(config),
        listing=pairs_listing(config),
        rows_per_chunk=lambda num_pairs: _rows_per_chunk(config, num_pairs),
        carry_from=uri if config.carry_from == "published" else config.carry_from,
        storage=config.storage,
    )


def pairs_difference(request: RunRequest, *, exact: bool) -> tuple[str, ...] | None:
    """A line that says so if what is published is of other pairs than these.

    None if that is not known without reading the pairs, which is done if `exact`.
    """
    log = open_log(request.output)
    entry = None if log is None else log.decided_by(log.version)
    commit = None if entry is None else entry.commit
    if commit is None or commit.manifest is None or commit.manifest.run != request.identity.run:
        return ()  # that its settings differ is seen without the pairs
    known = next(request.known(), None)
    if known is None and not exact:
        return None
    if known is not None:
        name = known.run
    else:
        with request.read_rows() as rows:
            name = rows.run
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
