"""The rows of a bulk run: their keys, and what a row has besides that succeeded or failed."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from xrec.table import TableFormat

OK, FAILED = "ok", "failed"
"""The values of the partition column `status`."""


@dataclass(frozen=True)
class RowFormat:
    """The columns of a run's output.

    keys: names of the columns that identify a row, all of them strings. The rows with one value of
        the first key are in one bucket, and as a rule in one chunk.
    ok: further columns of a row that succeeded; they are null in a failed one.
    failed: further columns of a row that failed, besides `reason` and `message`.
    ok_keys: columns of `ok`. If there are any, a row that succeeds becomes one or more rows of the
        table, such as the k items of a user, which have the same keys and differ in these columns.
    reasons: the reasons for which the task lets rows fail.
    expected_reasons: those of them that are no fault, and count for no `max_failed_share`.
    error_reason: the reason of a row that the task cannot do, or that kills its process.
    keys_in_statistics: whether the least and greatest value of the first key, per file, stand in
        the table's log. Ids are personal data, and the log outlives the files. Readers skip files
        by `bucket` without it.
    key_comments: what each of the keys means, which is written into the table; so is the metadata
        of the fields of `ok` and `failed`.

    Raises ValueError if there are no keys, two columns have one name, or `ok` lacks an `ok_keys`.
    """

    keys: tuple[str, ...]
    ok: pa.Schema
    failed: pa.Schema
    ok_keys: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    expected_reasons: tuple[str, ...] = ()
    error_reason: str = "task_error"
    keys_in_statistics: bool = False
    key_comments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = ["status", "bucket", *self.keys, *self.ok.names, "reason", "message"]
        names += self.failed.names
        if not self.keys or len(set(names)) < len(names):
            raise ValueError(f"columns {names}: expected at least one key, and each name once")
        if missing := set(self.ok_keys) - set(self.ok.names):
            raise ValueError(f"ok_keys {sorted(missing)}: expected columns of ok, {self.ok.names}")

    @property
    def key_schema(self) -> pa.Schema:
        """The columns of a planned row."""
        comments = (*self.key_comments, *[""] * len(self.keys))
        return pa.schema(
            [
                pa.field(
                    name,
                    pa.string(),
                    nullable=False,
                    metadata={"comment": comment} if comment else None,
                )
                for name, comment in zip(self.keys, comments, strict=False)
            ]
        )

    @property
    def ok_schema(self) -> pa.Schema:
        """The columns of `Outcome.ok`."""
        columns = [
            field.with_nullable(False) if field.name in self.ok_keys else field for field in self.ok
        ]
        return pa.schema([*self.key_schema, *columns])

    @property
    def failed_schema(self) -> pa.Schema:
        """The columns of `Outcome.failed`."""
        texts = [pa.field(name, pa.string(), nullable=False) for name in ("reason", "message")]
        return pa.schema([*self.key_schema, *texts, *self.failed])

    @property
    def row_keys(self) -> tuple[str, ...]:
        """The columns in which any two rows of the table differ."""
        return (*self.keys, *self.ok_keys)

    @property
    def all_reasons(self) -> tuple[str, ...]:
        """Every reason for which a row can fail."""
        return tuple(dict.fromkeys((*self.reasons, self.error_reason)))

    @cached_property
    def table(self) -> TableFormat:
        """The format of the output's table."""
        return TableFormat(
            pa.schema(
                [
                    _field("status", pa.string(), f"{OK} or {FAILED}", nullable=False),
                    _field(
                        "bucket",
                        pa.int32(),
                        f"hash of {self.keys[0]} modulo the number of buckets",
                        nullable=False,
                    ),
                    *self.key_schema,
                    *(field.with_nullable(True) for field in self.ok),
                    _field("reason", pa.string(), f"why the row failed; null if it is {OK}"),
                    _field("message", pa.string(), f"details for a reader; null if it is {OK}"),
                    *(field.with_nullable(True) for field in self.failed),
                ]
            ),
            partition_by=("status",),
            statistics=("bucket", *(self.keys[:1] if self.keys_in_statistics else ())),
        )

    def sorted(self, rows: pa.Table) -> pa.Table:
        """The rows by their keys, and by those of `ok_keys` that they have."""
        names = [name for name in self.row_keys if name in rows.column_names]
        return rows.sort_by([(name, "ascending") for name in names])

    def without(self, rows: pa.Table, others: pa.Table) -> pa.Table:
        """The rows, sorted, of which `others` has none with the same keys."""
        return self._joined(rows, others, "left anti")

    def among(self, rows: pa.Table, others: pa.Table) -> pa.Table:
        """The rows, sorted, of which `others` has one with the same keys."""
        return self._joined(rows, others, "left semi")

    def _joined(self, rows: pa.Table, others: pa.Table, join_type: str) -> pa.Table:
        """Arrow joins no tables with lists, so the rows' numbers are joined instead."""
        keys = list(self.keys)
        numbered = rows.select(keys).append_column("", pa.array(range(rows.num_rows), pa.int64()))
        found = numbered.join(others.select(keys), keys, join_type=join_type)
        return self.sorted(rows.take(found[""]))

    def file_rows(self, rows: pa.Table, bucket: int | Mapping[str, int]) -> pa.Table:
        """Rows as a file of the table has them, by their keys; columns that they lack are null.

        bucket: of all rows, or of each value of the first key.
        """
        rows = self.sorted(rows)
        buckets = (
            pa.repeat(bucket, rows.num_rows)
            if isinstance(bucket, int)
            else pa.array([bucket[id_] for id_ in rows[self.keys[0]].to_pylist()])
        )
        schema = self.table.file_schema
        columns = {
            field.name: rows[field.name]
            if field.name in rows.column_names
            else pa.nulls(rows.num_rows, field.type)
            for field in schema
            if field.name != "bucket"
        }
        return pa.table({**columns, "bucket": buckets}).select(schema.names).cast(schema)


def _field(name: str, type_: pa.DataType, comment: str, nullable: bool = True) -> pa.Field:
    return pa.field(name, type_, nullable=nullable, metadata={"comment": comment})
