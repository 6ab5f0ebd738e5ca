"""The rows of a bulk run, what they become, and the protocol of the task that does them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc

OK, FAILED = "ok", "failed"
"""The values of the column `status`."""
AGAIN = "again: "
"""What begins the name of a count among the costs: rows that are not carried over, by reason."""


@dataclass(frozen=True)
class RowFormat:
    """The columns of a run's rows.

    keys: names of the columns that identify a row, all of them strings. Rows with one value of the
        first key lie together.
    ok: further columns of a row that succeeded; they are null in a failed one.
    failed: further columns of a row that failed, besides `reason` and `message`; some may be
        columns of `ok` too.
    ok_keys: columns of `ok`. If there are any, a row that succeeds becomes one or more rows of the
        table, such as the k items of a user, which have the same keys and differ in these columns.
    reasons: the reasons for which the task lets rows fail.
    expected_reasons: those of them that are no fault, and count for no `max_failed_share`.
    error_reason: the reason of a row that the task cannot do, or that kills its process.
    key_comments: what each of the keys means, which is written into the table; so is the metadata
        of the fields of `ok` and `failed`.
    """

    keys: tuple[str, ...]
    ok: pa.Schema
    failed: pa.Schema
    ok_keys: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    expected_reasons: tuple[str, ...] = ()
    error_reason: str = "task_error"
    key_comments: tuple[str, ...] = ()

    @property
    def key_schema(self) -> pa.Schema:
        """The columns of a planned row."""
        comments = (*self.key_comments, *[""] * len(self.keys))
        return pa.schema(
            [
                _field(name, pa.string(), comment, nullable=False)
                for name, comment in zip(self.keys, comments, strict=False)
            ]
        )

    @property
    def ok_schema(self) -> pa.Schema:
        columns = [
            field.with_nullable(False) if field.name in self.ok_keys else field for field in self.ok
        ]
        return pa.schema([*self.key_schema, *columns])

    @property
    def failed_schema(self) -> pa.Schema:
        texts = [pa.field(name, pa.string(), nullable=False) for name in ("reason", "message")]
        return pa.schema([*self.key_schema, *texts, *self.failed])

    @property
    def table_schema(self) -> pa.Schema:
        """The columns of results and of the table."""
        bucket = f"the table's part by a hash of {self.keys[0]}: of C equal ranges, which one"
        return pa.schema(
            [
                _field("status", pa.string(), f"{OK} or {FAILED}", nullable=False),
                _field("bucket", pa.int32(), bucket, nullable=False),
                *self.key_schema,
                *(field.with_nullable(True) for field in self.ok),
                _field("reason", pa.string(), f"why the row failed; null if it is {OK}"),
                _field("message", pa.string(), f"details for a reader; null if it is {OK}"),
                *(field.with_nullable(True) for field in self.failed if field not in self.ok),
            ]
        )

    @property
    def row_keys(self) -> tuple[str, ...]:
        """The columns in which any two rows of the table differ."""
        return (*self.keys, *self.ok_keys)

    @property
    def all_reasons(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.reasons, self.error_reason)))

    def check_reasons(self, reasons: tuple[str, ...]) -> tuple[str, ...]:
        """The reasons, sorted; raises ValueError for one for which no row can fail."""
        if unknown := set(reasons) - set(self.all_reasons):
            raise ValueError(
                f"reasons {sorted(unknown)}: expected some of {', '.join(self.all_reasons)}"
            )
        return tuple(sorted(set(reasons)))

    def faults(self, failed: Mapping[str, int]) -> Counter[str]:
        """Those of the counts by reason whose reasons are not expected."""
        return Counter({why: n for why, n in failed.items() if why not in self.expected_reasons})

    def sorted(self, rows: pa.Table) -> pa.Table:
        """The rows by their buckets if they have them, their keys, and those of `ok_keys`."""
        names = [name for name in ("bucket", *self.row_keys) if name in rows.column_names]
        return rows.sort_by([(name, "ascending") for name in names])

    def by_status(self, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Rows of the table as `Outcome.ok` and `Outcome.failed`."""
        ok, failed = (
            rows.filter(pc.equal(rows["status"], status)).select(schema.names).cast(schema)
            for status, schema in ((OK, self.ok_schema), (FAILED, self.failed_schema))
        )
        return ok, failed

    def without(self, rows: pa.Table, others: pa.Table) -> pa.Table:
        """The rows, in no order, of which `others` has none with the same keys."""
        return self._joined(rows, others, "left anti")

    def among(self, rows: pa.Table, others: pa.Table) -> pa.Table:
        """The rows, in no order, of which `others` has one with the same keys."""
        return self._joined(rows, others, "left semi")

    def _joined(self, rows: pa.Table, others: pa.Table, join_type: str) -> pa.Table:
        """Arrow joins no tables with lists, so the rows' numbers are joined instead."""
        keys = list(self.keys)
        numbered = rows.select(keys).append_column("", pa.array(range(rows.num_rows), pa.int64()))
        found = numbered.join(others.select(keys), keys, join_type=join_type)
        return rows.take(found[""])

    def as_results(self, planned: pa.Table, ok: pa.Table, failed: pa.Table) -> pa.Table:
        """Rows of both kinds as a result has them, sorted; `planned` has their keys and buckets."""
        marked = [
            rows.append_column("status", pa.repeat(status, rows.num_rows))
            for rows, status in ((ok, OK), (failed, FAILED))
        ]
        rows = pa.concat_tables(marked, promote_options="default")
        names, buckets = (planned[name].to_pylist() for name in (self.keys[0], "bucket"))
        bucket_of = dict(zip(names, buckets, strict=True))
        column = pa.array([bucket_of[name] for name in rows[self.keys[0]].to_pylist()], pa.int32())
        rows = rows.append_column("bucket", column).select(self.table_schema.names)
        return self.sorted(rows.cast(self.table_schema))


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
    """Errors of `do` for which a row may be to blame, one of these or of others at work. The rows
    are then done alone, and halved until the row is found. Any other error ends the run."""

    def do(self, rows: pa.Table) -> Outcome:
        """Do some rows (the columns `RowFormat.keys`), at least one."""
        ...

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        """The rows as failed ones, as in `Outcome.failed`; it must not do the rows."""
        ...


@runtime_checkable
class CarryingTask(Protocol):
    """A task that can carry rows over from an earlier run; a task need not be one."""

    def why_again(self, earlier: pa.Table) -> pa.Array:
        """For each row of an earlier table (`RowFormat.table_schema`), why it must be done again.

        Null if it may be carried over, also one that failed. The costs count each reason, as
        `AGAIN` and its name.
        """
        ...


def _field(name: str, type_: pa.DataType, comment: str, nullable: bool = True) -> pa.Field:
    metadata = {"comment": comment} if comment else None
    return pa.field(name, type_, nullable=nullable, metadata=metadata)
