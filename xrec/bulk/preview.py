"""What a run would do if it were begun now: rows, chunks, what is done, and what the rest costs.

Nothing is written to the output, and no process is started.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from xrec.bulk.request import RunRequest, refuse_other_files
from xrec.bulk.status import Status, read_status, status_of
from xrec.errors import ArtifactError, StorageNotFoundError, TableError


@dataclass(frozen=True)
class Preview:
    """What a run would do.

    rejected: rows that are left out, by reason. status: of the run; None if it is not planned.
    costs_left: what the rows that are left cost, by name, as measured on this run or on another
    one; None if none was. measured_at: the URI of the other run, none of whose rows count that were
    carried over, so the costs are at most these; None if it is this run.
    """

    num_rows: int
    num_chunks: int
    rejected: Mapping[str, int]
    status: Status | None
    costs_left: Mapping[str, float] | None
    measured_at: str | None

    @property
    def num_left(self) -> int:
        """How many rows are not done."""
        return self.num_rows - (self.status.num_done if self.status else 0)


def preview(request: RunRequest) -> Preview:
    """What `open_run` would open or plan, and what is left of it.

    The input is read only where `open_run` would read it. Raises what `open_run` raises, except for
    what only a write to the store can tell.
    """
    output = request.output
    refuse_other_files(output)
    record = request.planned()
    if record is None:
        with request.read_rows() as rows:
            record = rows.planned(output)
            if record is None:
                num_rows, rejected = rows.spill.num_rows, rows.rejected_by_reason
                num_chunks = sum(1 for _ in request.chunks(rows.spill, carrying=False))
                costs = _costs_elsewhere(request, num_rows)
                return Preview(num_rows, num_chunks, rejected, None, *costs)
    status = status_of(output, record)
    costs = _own_costs(status) or _costs_elsewhere(request, status.num_left)
    return Preview(record.num_rows, record.size.num_chunks, record.rejected, status, *costs)


def _own_costs(status: Status) -> tuple[dict[str, float], None] | None:
    """By what its rows cost: as many are taken to be carried over as until now."""
    if status.rate is None:
        return None
    share = status.num_left / status.num_done
    return {name: cost * share for name, cost in status.rate.costs.items()}, None


def _costs_elsewhere(
    request: RunRequest, num_rows: int
) -> tuple[dict[str, float] | None, str | None]:
    """By the newest run at the output, else at the one to carry over from."""
    for uri in filter(None, (request.uri, request.carry_from)):
        try:
            rate = read_status(uri, request.storage).rate
        except (ArtifactError, TableError, StorageNotFoundError):
            continue  # there is no run that this xrec reads
        if rate is not None:
            return rate.costs_of(num_rows), uri
    return None, None
