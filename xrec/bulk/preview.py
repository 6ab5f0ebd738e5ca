"""What a run would do if it were begun now: rows, chunks, what is done, and what the rest costs.

Nothing is written to the output, and no actor is started.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from xrec.bulk.carry import find_earlier
from xrec.bulk.plan import (
    PLAN,
    Identity,
    RowCounts,
    count_rows,
    find_plan,
    read_plan,
    refuse_other_rows,
)
from xrec.bulk.rate import Rate, measured_rate
from xrec.bulk.row_format import RowFormat
from xrec.bulk.run import Batches, with_carry
from xrec.bulk.status import Status, read_status
from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactError, StorageNotFoundError, TableError
from xrec.storage import Location, open_location
from xrec.table import refuse_other_files


@dataclass(frozen=True)
class Preview:
    """What a run would do.

    counts: of the input if it was read; None if a plan was there that could be trusted.
    status: of the run; None if no plan was there.
    rate: what a row costs, by this run's own commits or by another run's; None if no run has been
        measured.
    """

    num_rows: int
    num_chunks: int
    rejected: Mapping[str, int]
    counts: RowCounts | None
    status: Status | None
    rate: Rate | None

    @property
    def num_done(self) -> int:
        """How many rows are committed."""
        return self.status.num_done if self.status else 0

    @property
    def num_left(self) -> int:
        """How many rows are not committed."""
        return self.num_rows - self.num_done

    @property
    def is_own_rate(self) -> bool:
        """True if the rate is that of this run's own rows."""
        return bool(self.rate and self.status and self.rate.uri == self.status.uri)

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
    rows_per_chunk: int,
    carry_from: str | None = None,
    storage: StorageConfig | None = None,
    measured: Sequence[str] = (),
) -> Preview:
    """What `open_run` with the same arguments would open or plan, and what is left of it.

    The input is read, through `batches`, only where `open_run` would read it.

    measured: URIs of other runs whose rate may be taken if this one and `carry_from` have none.

    Raises what `open_run` raises, except for what only a write to the store can tell.
    """
    storage = storage or StorageConfig()
    output = open_location(uri, storage)
    plan = find_plan(output, with_carry(identity, carry_from, storage), listing)
    others = [*([carry_from] if carry_from else []), *measured]
    counts = None
    if plan is None:
        is_planned = (output / PLAN).is_file()  # then some file of the input changed
        if not is_planned:
            _check_begin(output, carry_from, format, storage)
        counts = count_rows(batches(), format.key_schema, rows_per_chunk=rows_per_chunk)
        if not is_planned:
            rate = next(_rates(None, others, storage), None)
            return Preview(counts.num_rows, counts.num_chunks, counts.rejected, counts, None, rate)
        plan = read_plan(output)
        refuse_other_rows(plan, counts.num_rows, counts.rows_fingerprint)
    status = read_status(uri, storage)
    rejected = Counter(plan.rejected()["reason"].to_pylist())
    rate = next(_rates(status, others, storage), None)
    record = plan.record
    return Preview(record.num_rows, record.num_chunks, rejected, counts, status, rate)


def _check_begin(
    output: Location, carry_from: str | None, format: RowFormat, storage: StorageConfig
) -> None:
    """Raise what stands against a run at an output that has no plan."""
    refuse_other_files(output)
    if carry_from is not None:
        run = read_status(carry_from, storage).plan.identity.run
        find_earlier(carry_from, run, format, storage)


def _rates(own: Status | None, others: Sequence[str], storage: StorageConfig) -> Iterator[Rate]:
    """The rates that were measured, this run's first."""
    if own is not None and (rate := measured_rate(own)) is not None:
        yield rate
    for uri in others:
        try:
            rate = measured_rate(read_status(uri, storage))
        except (ArtifactError, TableError, StorageNotFoundError):
            continue  # there is no run that this xrec reads
        if rate is not None:
            yield rate
