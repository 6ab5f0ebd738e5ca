"""The rows of a bulk run: their columns, their outcomes, and the task that processes them."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc

OK, FAILED = "ok", "failed"
"""The values of the column `status`."""
AGAIN = "again: "
"""Prefix of the costs that count, by reason, rows that were done again instead of carried over."""
TAKEN_DOWN = "taken_down"
"""The reason given for rows that a plan leaves out because they are taken down."""


@dataclass(frozen=True)
class RowFormat:
    """The columns of a run's rows.

    keys: the string columns that identify a row. Rows with the same first key stay together.
    given: columns that the input may provide, such as a rank. They are copied from the plan to
        every row of the table, even a failed or carried one; null if the input lacks them.
    ok: the other columns of a successful row; null in a failed row.
    failed: the columns of a failed row besides `reason` and `message`; may overlap with `ok`.
    reasons: the reasons for which the task may fail a row.
    expected_reasons: reasons that do not count toward `max_failed_share`.
    error_reason: the reason recorded for a row that raises an error or kills its process.
    key_comments: descriptions of the keys; written into the table, like the metadata of `ok` and
        `failed`.
    """

    keys: tuple[str, ...]
    ok: pa.Schema
    failed: pa.Schema
    given: pa.Schema = pa.schema([])  # noqa: RUF009  it is immutable
    reasons: tuple[str, ...] = ()
    expected_reasons: tuple[str, ...] = ()
    error_reason: str = "task_error"
    key_comments: tuple[str, ...] = ()

    @property
    def key_schema(self) -> pa.Schema:
        """The columns `keys`."""
        comments = (*self.key_comments, *[""] * len(self.keys))
        pairs = zip(self.keys, comments, strict=False)
        return pa.schema([_field(key, pa.string(), text, nullable=False) for key, text in pairs])

    @property
    def planned_schema(self) -> pa.Schema:
        """The columns of a planned row."""
        return pa.schema([*self.key_schema, *self.given])

    @property
    def ok_schema(self) -> pa.Schema:
        """The columns of `Outcome.ok`."""
        return pa.schema([*self.key_schema, *self.ok])

    @property
    def failed_schema(self) -> pa.Schema:
        """The columns of `Outcome.failed`."""
        texts = [pa.field(name, pa.string(), nullable=False) for name in ("reason", "message")]
        return pa.schema([*self.key_schema, *texts, *self.failed])

    @property
    def table_schema(self) -> pa.Schema:
        """The columns of results and of the table."""
        bucket = f"which of C equal ranges contains the hash of {self.keys[0]}"
        return pa.schema(
            [
                _field("status", pa.string(), f"{OK} or {FAILED}", nullable=False),
                _field("bucket", pa.int32(), bucket, nullable=False),
                *self.planned_schema,
                *(field.with_nullable(True) for field in self.ok),
                _field("reason", pa.string(), f"why the row failed; null if it is {OK}"),
                _field("message", pa.string(), f"details for a reader; null if it is {OK}"),
                *(field.with_nullable(True) for field in self.failed if field not in self.ok),
            ]
        )

    @property
    def all_reasons(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.reasons, self.error_reason)))

    def check_reasons(self, reasons: Iterable[str]) -> tuple[str, ...]:
        """Return the reasons sorted, without duplicates; raise ValueError if one is unknown."""
        if unknown := set(reasons) - set(self.all_reasons):
            raise ValueError(
                f"unknown reasons {sorted(unknown)}: expected some of {', '.join(self.all_reasons)}"
            )
        return tuple(sorted(set(reasons)))

    def faults(self, failed: Mapping[str, int]) -> Counter[str]:
        """Return the counts without the `expected_reasons`."""
        return Counter({why: n for why, n in failed.items() if why not in self.expected_reasons})

    def sorted(self, rows: pa.Table) -> pa.Table:
        """Sort rows by bucket (if present) and keys."""
        names = [name for name in ("bucket", *self.keys) if name in rows.column_names]
        return rows.sort_by([(name, "ascending") for name in names])

    def by_status(self, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Split rows of the table into `Outcome.ok` and `Outcome.failed`."""
        ok, failed = (
            rows.filter(pc.equal(rows["status"], status)).select(schema.names).cast(schema)
            for status, schema in ((OK, self.ok_schema), (FAILED, self.failed_schema))
        )
        return ok, failed

    def are_among(self, rows: pa.Table, others: pa.Table) -> pa.ChunkedArray:
        """Return, for each row, whether its keys are in `others`."""
        return pc.is_in(self.joined_keys(rows), value_set=self.joined_keys(others))

    def joined_keys(self, rows: pa.Table) -> pa.ChunkedArray:
        """Join each row's keys, with their lengths, into a string that no other keys produce."""
        parts = []
        for name in self.keys:
            parts += [pc.cast(pc.binary_length(rows[name]), pa.string()), rows[name]]
        return pc.binary_join_element_wise(*parts, " ")

    def as_results(self, planned: pa.Table, ok: pa.Table, failed: pa.Table) -> pa.Table:
        """Combine successful and failed rows in the format of a result.

        Buckets and the columns `given` are taken from `planned`.
        """
        marked = [
            rows.append_column("status", pa.repeat(status, rows.num_rows))
            for rows, status in ((ok, OK), (failed, FAILED))
        ]
        rows = pa.concat_tables(marked, promote_options="default")
        places = pc.index_in(self.joined_keys(rows), value_set=self.joined_keys(planned))
        for name in ("bucket", *self.given.names):
            rows = rows.append_column(name, planned[name].take(places))
        return self.sorted(rows.select(self.table_schema.names).cast(self.table_schema))


@dataclass(frozen=True)
class Outcome:
    """The outcome of some rows; each row is in exactly one of the two tables.

    ok: keys and the columns `RowFormat.ok`.
    failed: keys, `reason`, `message` and the columns `RowFormat.failed`.
    costs: costs of the rows by name, such as tokens; a run adds them up.
    """

    ok: pa.Table
    failed: pa.Table
    costs: Mapping[str, float] = field(default_factory=dict)


class ChunkTask(Protocol):
    """The work to do on rows. Each process makes one task and keeps it, with its models in memory.

    Methods are called from several threads; at most `chunks_at_once` calls of `do` run at a time.
    """

    row_errors: tuple[type[Exception], ...]
    """Errors of `do` that a row of this call or of a concurrent one may have caused. The rows are
    then done again alone and halved until that row is found. Any other error ends the run."""

    def do(self, rows: pa.Table) -> Outcome:
        """Process one or more rows with the columns `RowFormat.keys`."""
        ...

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        """Return the rows as failed rows (`Outcome.failed`) without doing them."""
        ...


@runtime_checkable
class CarryingTask(Protocol):
    """An optional protocol for a task that can carry over rows of an earlier run."""

    def why_again(self, earlier: pa.Table) -> pa.Array:
        """Return why each earlier row (`RowFormat.table_schema`) must be done again.

        Null means that the row is carried over, even if it failed. Costs count the rows of each
        reason under `AGAIN` plus the reason.
        """
        ...


def bucket_of(key: str, num_buckets: int) -> int:
    """Return a first key's bucket: which of `num_buckets` equal ranges contains its MD5 hash."""
    digest = hashlib.md5(key.encode(), usedforsecurity=False).digest()
    return (int.from_bytes(digest[4:8], "little") * num_buckets) >> 32


def counts_of(values: pa.ChunkedArray) -> dict[str, int]:
    """Return how often each value occurs."""
    return {pair["values"]: pair["counts"] for pair in pc.value_counts(values).to_pylist()}


def bare(rows: pa.Table) -> pa.Table:
    """Remove the comments of the columns, which the table's log already has."""
    return pa.table(rows.columns, pa.schema([field.remove_metadata() for field in rows.schema]))


def _field(name: str, type_: pa.DataType, comment: str, nullable: bool = True) -> pa.Field:
    metadata = {"comment": comment} if comment else None
    return pa.field(name, type_, nullable=nullable, metadata=metadata)
