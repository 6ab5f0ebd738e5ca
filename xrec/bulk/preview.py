"""What a run would do if it were begun now: rows, chunks, what is done, and what the rest costs.

Nothing is written to the output, and no process is started.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from xrec.bulk.row_format import RowFormat
from xrec.bulk.run import (
    ROWS_PER_CHUNK,
    Batches,
    Identity,
    counted_rows,
    find_record,
    is_whole,
    name_of,
    newest_record,
    num_buckets_for,
    refuse_other_files,
    rejected_by_reason,
)
from xrec.bulk.status import Rate, Status, read_status, status_of
from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactError, StorageNotFoundError, TableError
from xrec.storage import open_location


@dataclass(frozen=True)
class Preview:
    """What a run would do.

    num_given: how many good rows the input has, duplicates included; None if a plan was there that
    could be trusted, and no input was read. rejected: rows that are left out, by reason; None so
    too. status: of the run; None if it is not planned. rate: what a row costs, by this run or by
    another one; None if none was measured.
    """

    num_rows: int
    num_chunks: int
    num_given: int | None
    rejected: Mapping[str, int]
    status: Status | None
    rate: Rate | None

    @property
    def num_done(self) -> int:
        """How many rows are done."""
        return self.status.num_done if self.status else 0

    @property
    def num_left(self) -> int:
        """How many rows are not done."""
        return self.num_rows - self.num_done

    @property
    def is_own_rate(self) -> bool:
        """True if the rate is that of this run's own rows."""
        return bool(self.rate and self.status and self.status.rate == self.rate)

    @property
    def costs_left(self) -> dict[str, float] | None:
        """What the rows that are left cost at the rate, by name; None without a rate.

        By the run's own rate, as many rows are taken to be carried over as until now; by another
        run's, none, so the costs of a run that carries rows over are at most these.
        """
        if self.rate is None:
            return None
        share = self.rate.carried_share if self.is_own_rate else 0.0
        return self.rate.costs_of(self.num_left, share)


def preview(
    uri: str,
    identity: Identity,
    format: RowFormat,
    batches: Callable[[], Batches],
    *,
    listing: Mapping[str, list[str]],
    rows_per_chunk: Callable[[int], int] | int = ROWS_PER_CHUNK,
    carry_from: str | None = None,
    storage: StorageConfig | None = None,
) -> Preview:
    """What `open_run` with the same arguments would open or plan, and what is left of it.

    The input is read, through `batches`, only where `open_run` would read it. Raises what
    `open_run` raises, except for what only a write to the store can tell.
    """
    storage = storage or StorageConfig()
    output = open_location(uri, storage)
    refuse_other_files(output)
    others = [each for each in (uri, carry_from) if each is not None]
    record = find_record(output, identity, listing)
    if record is None:
        with counted_rows(batches(), format.key_schema) as (spill, rejected):
            name = name_of(identity, spill.fingerprint)
            newest = newest_record(output, name)
            record = None if newest is None or not is_whole(output, newest[1]) else newest[1]
            if record is None:
                size = (
                    rows_per_chunk
                    if isinstance(rows_per_chunk, int)
                    else rows_per_chunk(spill.num_rows)
                )
                chunks = spill.chunks(size, num_buckets_for(spill.num_rows))
                return Preview(
                    spill.num_rows,
                    sum(1 for _ in chunks),
                    spill.num_given,
                    rejected_by_reason(rejected),
                    None,
                    next(_rates(others, storage), None),
                )
            num_given = spill.num_given
    else:
        num_given = None
    status = status_of(output, record)
    rate = status.rate or next(_rates(others, storage), None)
    return Preview(
        record.num_rows, record.size.num_chunks, num_given, record.rejected, status, rate
    )


def _rates(uris: Sequence[str], storage: StorageConfig) -> Iterator[Rate]:
    """The rates that were measured at these outputs."""
    for uri in uris:
        try:
            rate = read_status(uri, storage).rate
        except (ArtifactError, TableError, StorageNotFoundError):
            continue  # there is no run that this xrec reads
        if rate is not None:
            yield rate
