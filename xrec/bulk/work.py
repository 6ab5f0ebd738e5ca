"""What the driver sends to a pool of actors, and what comes back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from xrec.table import DataFile


@dataclass(frozen=True)
class Unit:
    """Rows whose results are committed together: a chunk of the plan, or a failed file.

    name: what the unit is called in the state of the run.
    file: where its rows are, relative to the output: a part of the plan, or a data file.
    row_group: of the part that has the chunk; None for a failed file, all of whose rows belong to
        the unit.
    prefix: how the names of the files begin that are written for it.
    bucket: of all its rows; None for a failed file, whose rows have their buckets.
    reasons: a retry does the rows that failed for these reasons, and keeps the others as they are.
    """

    name: str
    file: str
    row_group: int | None
    num_rows: int
    prefix: str
    bucket: int | None = None
    reasons: tuple[str, ...] = ()

    @property
    def is_retry(self) -> bool:
        """True if the unit is a failed file."""
        return self.row_group is None


@dataclass(frozen=True)
class Work:
    """The rows `start` to `stop` of a unit.

    num_deaths: if it is not 0, the rows are not done but written as failed, because so many
        processes died with them.
    is_alone: the actor must do nothing else meanwhile, because a process died with these rows.
    """

    unit: Unit
    start: int
    stop: int
    num_deaths: int = 0
    is_alone: bool = False

    @property
    def is_whole(self) -> bool:
        """True if these are all rows of the unit."""
        return self.stop - self.start == self.unit.num_rows

    @property
    def name(self) -> str:
        """What the range is called in the state of the run."""
        return f"{self.unit.name}:{self.start}-{self.stop}"


@dataclass(frozen=True)
class Done:
    """Rows are done, and their files written.

    num_ok: how many of the work's rows succeeded; num_ok_rows: how many rows of the table they
        became (`RowFormat.ok_keys`). failed: how many failed, by reason.
    was_failed: of a retry, how many of the rows were failed before, by reason.
    """

    work: Work
    files: tuple[DataFile, ...]
    num_ok: int
    num_ok_rows: int
    failed: Mapping[str, int]
    was_failed: Mapping[str, int] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Died:
    """The actor's process ended before the work was done.

    is_innocent: the machine was taken away, so the rows had no part in it.
    """

    work: Work
    cause: str
    is_innocent: bool = False


class Pool(Protocol):
    """What the driver needs of actors."""

    def start(self, num_works: int) -> None:
        """Let there be actors, but not more than works."""
        ...

    def can_take(self, is_alone: bool) -> bool:
        """True if an actor can take a work now; one that `is_alone` needs an idle actor."""
        ...

    def submit(self, work: Work) -> None:
        """Send a work; `can_take` must have said that it can be taken."""
        ...

    def wait(self, timeout_seconds: float) -> list[Done | Died]:
        """What ended, as soon as anything did; nothing at the end of the time.

        Raises the XRecError that an actor raised, or ClusterError.
        """
        ...

    def close(self) -> None:
        """End all actors."""
        ...
