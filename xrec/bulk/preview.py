"""What a run would do if it were begun now: rows, chunks, what is done, and what the rest costs.

Nothing is written to the output, and no process is started.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from xrec.bulk.request import RunRequest, refuse_other_files
from xrec.bulk.status import Rate, Status, read_status, status_of
from xrec.errors import ArtifactError, StorageNotFoundError, TableError


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


def preview(request: RunRequest) -> Preview:
    """What `open_run` would open or plan, and what is left of it.

    The input is read only where `open_run` would read it. Raises what `open_run` raises, except for
    what only a write to the store can tell.
    """
    output = request.output
    refuse_other_files(output)
    record, num_given = request.planned(), None
    if record is None:
        with request.read_rows() as rows:
            num_given = rows.spill.num_given
            record = rows.planned(output)
            if record is None:
                num_chunks = sum(1 for _ in request.chunks(rows.spill, carrying=False))
                rejected, rate = rows.rejected_by_reason, next(_rates(request), None)
                return Preview(rows.spill.num_rows, num_chunks, num_given, rejected, None, rate)
    status = status_of(output, record)
    rate = status.rate or next(_rates(request), None)
    return Preview(
        record.num_rows, record.size.num_chunks, num_given, record.rejected, status, rate
    )


def _rates(request: RunRequest) -> Iterator[Rate]:
    """The rates that were measured at the output, and at the one to carry over from."""
    for uri in filter(None, (request.uri, request.carry_from)):
        try:
            rate = read_status(uri, request.storage).rate
        except (ArtifactError, TableError, StorageNotFoundError):
            continue  # there is no run that this xrec reads
        if rate is not None:
            yield rate
