"""How far a run is, for anyone who can read its output, also while it runs."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from xrec.bulk.plan import PLAN, PlanRecord, read_record
from xrec.bulk.state import RunState, read_state
from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, StorageNotFoundError
from xrec.storage import MANIFEST, Location, open_location
from xrec.storage.process import may_be_at_work
from xrec.table import Table

Phase = Literal["planned", "running", "silent", "stopped", "finished"]

_FEW_CHUNKS = 10
_OLDER_LAYOUTS = (MANIFEST, "plan.json", "run.json")  # files that other artifacts and runs have


@dataclass(frozen=True)
class Status:
    """What is committed of a run.

    version: the newest one of the table.
    holder: who made the newest commit that states something, and when.
    state: None if no driver has committed yet.
    """

    uri: str
    plan: PlanRecord
    version: int
    holder: str
    committed_at: datetime
    state: RunState | None

    @property
    def num_done(self) -> int:
        """How many rows are committed."""
        return self.state.num_rows if self.state else 0

    @property
    def num_left(self) -> int:
        """How many rows are not committed."""
        return self.plan.num_rows - self.num_done

    def is_running(self, now: datetime | None = None) -> bool:
        """True if a driver is to be taken for alive, by its clock and this machine's."""
        expires_at = self.state.expires_at if self.state else None
        return may_be_at_work(self.holder, expires_at, now)

    def phase(self, now: datetime | None = None) -> Phase:
        """In one word how the run is.

        planned: no driver has committed. running: a driver is to be taken for alive. silent: the
        last driver is to be taken for dead. stopped: it ended and left something to do.
        """
        if self.state is None:
            return "planned"
        if self.state.state == "finished":
            return "finished"
        if self.is_running(now):
            return "running"
        return "stopped" if self.state.expires_at is None else "silent"

    @property
    def rows_per_second(self) -> float | None:
        """The rate of the last driver until its last commit; see `RunState.rows_per_second`."""
        return self.state.rows_per_second(self.committed_at) if self.state else None

    @property
    def is_rate_rough(self) -> bool:
        """True if the last driver has committed so few chunks that its rate may change much.

        At the start, what each actor has begun and not committed does not count, which may be most
        of its work.
        """
        if self.state is None:
            return True
        num_done = self.state.num_rows_of_driver
        return num_done * self.plan.num_chunks < _FEW_CHUNKS * self.plan.num_rows

    @property
    def seconds_left(self) -> float | None:
        """How long the driver needs at its rate, from its last commit on.

        None if there is no rate, or no rows are left.
        """
        rate = self.rows_per_second
        return self.num_left / rate if rate is not None and self.num_left else None


def read_status(uri: str, storage: StorageConfig | None = None) -> Status:
    """The status of the run at `uri`; it takes few small requests, however large the run is.

    Raises ArtifactNotFoundError if no run was planned there, ArtifactMismatchError if something
    else is there, such as the output of an older xrec, TableError if there is no table.
    """
    storage = storage or StorageConfig()
    output = open_location(uri, storage)
    try:
        plan = read_record(output)
    except StorageNotFoundError as error:
        raise _no_run(output) from error
    table = Table.open(uri, run=plan.identity.run, storage=storage)
    version = table.newest_version()
    commit, state = read_state(table, version)
    return Status(output.uri, plan, version, commit.holder, commit.committed_at, state)


def _no_run(output: Location) -> ArtifactNotFoundError | ArtifactMismatchError:
    for name in _OLDER_LAYOUTS:
        if (output / name).is_file():
            return ArtifactMismatchError(
                f"{output}: holds {name}, but no {PLAN}: the output of an older version of xrec, "
                "or an artifact that is no table; it has no status"
            )
    return ArtifactNotFoundError(f"{output}: no run was planned there; check the URI")
