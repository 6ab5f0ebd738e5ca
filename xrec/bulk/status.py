"""How far a run is, for anyone who can read its output, also while it runs."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from xrec.bulk.plan import PLAN, PlanRecord
from xrec.bulk.state import RunState, read_state
from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactNotFoundError, StorageNotFoundError
from xrec.storage import open_location
from xrec.table import Table


@dataclass(frozen=True)
class Status:
    """What is committed of a run.

    holder: who made the newest commit that states something, and when.
    state: None if no driver has committed yet.
    """

    version: int
    num_rows: int
    num_rejected: int
    num_chunks: int
    holder: str
    committed_at: datetime
    state: RunState | None

    @property
    def num_left(self) -> int:
        """How many rows are not committed."""
        return self.num_rows - (self.state.num_rows if self.state else 0)

    def is_running(self, now: datetime | None = None) -> bool:
        """True if a driver is to be taken for alive, by its clock and this machine's."""
        expires_at = self.state.expires_at if self.state else None
        return expires_at is not None and expires_at > (now or datetime.now(UTC))

    def time_left(self) -> timedelta | None:
        """How long the driver needs at the rate that it had until its last commit.

        None if it has committed no rows, or none are left.
        """
        if self.state is None or not self.num_left:
            return None
        num_done = self.state.num_rows - self.state.num_rows_before
        if num_done <= 0:
            return None
        return (self.committed_at - self.state.started_at) * (self.num_left / num_done)


def read_status(uri: str, storage: StorageConfig | None = None) -> Status:
    """The status of the run at `uri`; it takes few small requests, however large the run is.

    Raises ArtifactNotFoundError if no run was planned there, TableError if there is no table.
    """
    storage = storage or StorageConfig()
    try:
        data = (open_location(uri, storage) / PLAN).read_bytes()
    except StorageNotFoundError as error:
        raise ArtifactNotFoundError(f"{uri}: no run was planned there; check the URI") from error
    plan = PlanRecord.model_validate_json(data)
    table = Table.open(uri, run=plan.identity.run, storage=storage)
    version = table.newest_version()
    commit, state = read_state(table, version)
    return Status(
        version,
        plan.num_rows,
        plan.num_rejected,
        plan.num_chunks,
        commit.holder,
        commit.committed_at,
        state,
    )
