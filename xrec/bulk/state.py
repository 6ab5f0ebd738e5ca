"""The state of a run, as it stands in the metadata of the table's commits."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from xrec.errors import StorageNotFoundError, TableError
from xrec.table import Commit, Table

_KEY = "bulk"


class RunState(BaseModel):
    """What is committed of a run, in all. Each commit of a driver has it anew.

    state: `finished` once every row is in the table, until a retry begins.
    expires_at: when the driver is to be taken for dead unless it commits again; None if it has
        ended.
    num_ok: rows that succeeded; failed: rows that failed, by reason.
    num_ok_rows: how many rows of the table those became that succeeded (`RowFormat.ok_keys`).
    costs: sums of what the rows cost, by name; `seconds` is the time of actors.
    num_deaths: processes that died while they worked; deaths: of those, by range of rows that is
        not committed yet (`Work.name`).
    retry: how many retries were begun; retry_reasons: of the last one; is_retrying: whether that
        one is not finished.
    started_at: when this driver began; num_rows_before: rows that were committed then.
    working_since: when an actor of this driver got the first rows; None before that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Literal["running", "finished"] = "running"
    expires_at: datetime | None = None
    num_ok: int = 0
    num_ok_rows: int = 0
    failed: dict[str, int] = {}
    costs: dict[str, float] = {}
    num_deaths: int = 0
    deaths: dict[str, int] = {}
    retry: int = 0
    retry_reasons: tuple[str, ...] = ()
    is_retrying: bool = False
    started_at: datetime
    num_rows_before: int = 0
    working_since: datetime | None = None

    @property
    def num_failed(self) -> int:
        """How many rows failed."""
        return sum(self.failed.values())

    @property
    def num_rows(self) -> int:
        """How many rows of the plan are committed."""
        return self.num_ok + self.num_failed

    @property
    def num_table_rows(self) -> int:
        """How many rows the table has."""
        return self.num_ok_rows + self.num_failed

    @property
    def num_rows_of_driver(self) -> int:
        """How many rows this driver has committed."""
        return self.num_rows - self.num_rows_before

    def rows_per_second(self, at: datetime) -> float | None:
        """The rate of this driver at a time, from when its first actor was ready.

        None if it has committed no rows. What earlier drivers did does not count, nor how long the
        actors took to start.
        """
        if self.working_since is None:
            return None
        seconds = (at - self.working_since).total_seconds()
        done = self.num_rows_of_driver
        return done / seconds if done > 0 and seconds > 0 else None

    def metadata(self) -> dict[str, object]:
        """The metadata of a commit."""
        return {_KEY: self.model_dump(mode="json")}


def read_state(table: Table, version: int) -> tuple[Commit, RunState | None]:
    """The newest commit up to `version` in which the state is stated; no state if there is none.

    Take-overs change no rows and state nothing; they are passed over.
    """
    newest = commit = table.commit(version)
    while _KEY not in commit.metadata and version > 0:
        version -= 1
        try:
            commit = table.commit(version)
        except StorageNotFoundError:  # a vacuum shortened the log
            break
    state = state_of(commit)
    return (newest, None) if state is None else (commit, state)


def state_of(commit: Commit) -> RunState | None:
    """The state that a commit states; None if it states none.

    Raises TableError if this xrec cannot read it.
    """
    stated = commit.metadata.get(_KEY)
    try:
        return None if stated is None else RunState.model_validate(stated)
    except ValidationError as error:
        raise TableError(
            f"the commit of {commit.holder} ({commit.committed_at:%Y-%m-%d %H:%M:%S} UTC) states "
            f"the run as this xrec cannot read it: {error}; use the xrec that wrote it"
        ) from error


def begun(state: RunState | None) -> RunState:
    """The state with which a driver begins, now."""
    now = datetime.now(UTC)
    if state is None:
        return RunState(started_at=now)
    update = {"started_at": now, "num_rows_before": state.num_rows, "working_since": None}
    return state.model_copy(update=update)


def added(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """The sums of numbers by name."""
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def counted(
    failed: Mapping[str, int], more: Mapping[str, int], less: Mapping[str, int]
) -> dict[str, int]:
    """Counts of failed rows by reason after some were added and others removed; none is 0."""
    counts = Counter(failed)
    counts.update(more)
    counts.subtract(less)
    assert min(counts.values(), default=0) >= 0, counts
    return {reason: count for reason, count in counts.items() if count}
