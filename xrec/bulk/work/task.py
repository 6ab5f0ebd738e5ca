"""What a bulk run does with its rows: the protocol of a task."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import pyarrow as pa


@dataclass(frozen=True)
class Outcome:
    """What became of some rows: each is in one of the two tables, once.

    ok: the rows' keys and the columns `RowFormat.ok`. Where the format has `ok_keys`, a row that
        succeeded is there one or more times, each time with other values of them.
    failed: the rows' keys, `reason`, `message` and the columns `RowFormat.failed`.
    costs: what the rows cost, such as tokens, by name; the run adds the numbers up.
    """

    ok: pa.Table
    failed: pa.Table
    costs: Mapping[str, float] = field(default_factory=dict)


class ChunkTask(Protocol):
    """The work of an actor, which makes one task and keeps it, with its models in memory.

    Methods are called from several threads, but `do` only `chunks_at_once` times at the same time
    (see `WorkerSettings`).
    """

    row_errors: tuple[type[Exception], ...]
    """Errors of `do` for which some row may be to blame. The rows are then halved until the row is
    found. Any other error ends the run."""

    def do(self, rows: pa.Table) -> Outcome:
        """Do some rows (the columns `RowFormat.keys`), at least one."""
        ...

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        """The rows as failed ones, as in `Outcome.failed`; it must not do the rows."""
        ...


@runtime_checkable
class CarryingTask(Protocol):
    """A task that can carry rows over from an earlier run; a task need not be one."""

    def is_still_good(self, earlier: pa.Table) -> pa.Array:
        """For each row of an earlier run (`RowFormat.ok_schema`), whether it may be carried over.

        The rows that may not are done.
        """
        ...
