"""The rows of a bulk run: their columns and IDs, their outcomes, and the task that processes them.

An ID is a string or an integer. Rows with other IDs (null, float, NaN, bytes that are not UTF-8)
are rejected with a reason, because these have no exact text.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Literal, Protocol, Self, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xrec.errors import ConfigError, DataError
from xrec.schemas import REJECTED
from xrec.storage import FORGOTTEN, Forgotten, Location, check_columns

OK, FAILED = "ok", "failed"
"""The values of the column `status`."""
AGAIN = "again: "
"""Prefix of the costs that count, by reason, rows that were done again instead of carried over."""
TAKEN_DOWN = "taken_down"
"""The reason given for rows that a plan leaves out because they are taken down."""
_TEXT_BYTES = 200  # kept from a rejected row

Rejection = Literal["null_id", "float_id", "nan_id", "invalid_utf8"]
Batches = Iterable[tuple[pa.Table, pa.Table]]
"""Pairs of good and rejected rows, as returned by `clean_keys`."""


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
        """Return the reasons sorted, without duplicates; `all` means all that exist.

        Raises ConfigError if one is unknown.
        """
        wanted, known = set(reasons), set(self.all_reasons)
        if unknown := sorted(wanted - known - {"all"}):
            raise ConfigError(
                f"retry_failed has unknown reasons {', '.join(unknown)}; expected all, or some of "
                f"{', '.join(self.all_reasons)}",
                code="unknown_reason",
                key="retry_failed",
                saw=tuple(unknown),
            )
        return tuple(sorted(known if "all" in wanted else wanted))

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

    def without(self, rows: pa.Table, others: pa.Table) -> pa.Table:
        """Return the rows whose keys are not in `others`, in any order."""
        return self._joined(rows, others, "left anti")

    def among(self, rows: pa.Table, others: pa.Table) -> pa.Table:
        """Return the rows whose keys are in `others`, in any order."""
        return self._joined(rows, others, "left semi")

    def joined_keys(self, rows: pa.Table) -> pa.ChunkedArray:
        """Join each row's keys, with their lengths, into a string that no other keys produce."""
        parts = []
        for name in self.keys:
            parts += [pc.cast(pc.binary_length(rows[name]), pa.string()), rows[name]]
        return pc.binary_join_element_wise(*parts, " ")

    def _joined(self, rows: pa.Table, others: pa.Table, join_type: str) -> pa.Table:
        """Join row numbers, because Arrow cannot join tables that contain lists."""
        keys = list(self.keys)
        numbered = rows.select(keys).append_column("", pa.array(range(rows.num_rows), pa.int64()))
        return rows.take(numbered.join(others.select(keys), keys, join_type=join_type)[""])

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


class Rejected:
    """Rejected rows (schema REJECTED) in a local file.

    reasons: the number of rows by reason. first: a table with the first row, or an empty table.
    """

    def __init__(self) -> None:
        self.reasons = Counter[str]()
        self.first = REJECTED.empty_table()
        self._folder = TemporaryDirectory(prefix="xrec-rejected-")
        self._file = f"{self._folder.name}/rejected.parquet"
        self._writer = pq.ParquetWriter(self._file, REJECTED, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()
        self._folder.cleanup()

    def add(self, rows: pa.Table) -> None:
        if rows.num_rows:
            self.reasons.update(counts_of(rows["reason"]))
            self.first = self.first if self.first.num_rows else rows.slice(0, 1)
            self._writer.write_table(rows.cast(REJECTED))

    def write(self, location: Location) -> None:
        """Copy the file to `location`; no more rows can be added."""
        self._writer.close()
        location.write_file(self._file)


def good_rows(
    batches: Batches, rejected: Rejected, forgotten: Sequence[Forgotten]
) -> Iterator[pa.Table]:
    """Yield the good rows, except those of forgotten users, and collect the rejected ones."""
    for good, bad in batches:
        num_given = good.num_rows
        for users in forgotten:
            good = users.without(good)
        rejected.add(_anonymous(bad, num_given - good.num_rows) if forgotten else bad)
        yield good


def _anonymous(rejected: pa.Table, num_forgotten: int) -> pa.Table:
    """Blank the texts of rejected rows, and add `num_forgotten` rows without IDs."""
    blank = pa.repeat("", rejected.num_rows)
    rows = rejected.drop_columns("text").append_column("text", blank).select(REJECTED.names)
    values = {"file": "", "line": 0, "reason": FORGOTTEN, "text": ""}
    gone = pa.table({name: pa.repeat(value, num_forgotten) for name, value in values.items()})
    return pa.concat_tables(table.cast(REJECTED) for table in (rows, gone))


def first_of(rejected: pa.Table) -> str:
    """Describe the first rejected row, for the end of a message."""
    if not rejected.num_rows:
        return ""
    row = rejected.slice(0, 1).to_pylist()[0]
    return f", the first at {row['file']}, line {row['line']}: {row['reason']} ({row['text']})"


def clean_keys(
    table: pa.Table,
    keys: Sequence[str],
    *,
    file: str,
    first_line: int,
    given: pa.Schema = pa.schema([]),  # noqa: B008  it is immutable
) -> tuple[pa.Table, pa.Table]:
    """Split rows into those with valid IDs and rejected rows (schema REJECTED).

    Good rows have the columns `keys` as strings and the columns `given`, null if the table lacks
    them. `file` and `first_line` are where the rows were read. Raise DataError if a column of
    `keys` is missing or contains neither strings nor numbers, or if a column of `given` cannot be
    cast to its type.
    """
    check_columns(file, keys, table.schema.names)
    ids = [_ids(table[name], f"{file}: column {name}") for name in keys]
    others = [_given(table, field, f"{file}: column {field.name}") for field in given]
    ours = [pa.field(name, pa.string(), nullable=False) for name in keys]
    schema = pa.schema([*ours, *given])
    if not any(column.null_count or pa.types.is_floating(column.type) for column in ids):
        with suppress(pa.ArrowInvalid):  # raised if an ID is not UTF-8
            texts = [column.cast(pa.string()) for column in ids]
            return pa.table([*texts, *others], schema), REJECTED.empty_table()
    good, is_good, rejected = list[dict[str, str]](), list[bool](), list[dict[str, str | int]]()
    rows = zip(*(column.to_pylist() for column in ids), strict=True)
    for line, row in enumerate(rows, first_line):
        shown = {name: _shown(value) for name, value in zip(keys, row, strict=True)}
        reason = next(filter(None, map(_rejection, row)), None)
        is_good.append(reason is None)
        if reason is not None:
            text = ", ".join(f"{name}={value!r}" for name, value in shown.items())[:_TEXT_BYTES]
            rejected.append({"file": file, "line": line, "reason": reason, "text": text})
        else:
            good.append({name: str(value) for name, value in shown.items()})
    columns = pa.Table.from_pylist(good, pa.schema(ours)).columns
    kept = [column.filter(pa.array(is_good, pa.bool_())) for column in others]
    return pa.table([*columns, *kept], schema), pa.Table.from_pylist(rejected, REJECTED)


def _given(table: pa.Table, field: pa.Field, name: str) -> pa.ChunkedArray:
    """Return the column `field`, cast to its type; nulls if the table lacks it."""
    if field.name not in table.schema.names:
        return pa.chunked_array([pa.nulls(table.num_rows, field.type)])
    try:
        return table[field.name].cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{name}: expected {field.type}, saw {table[field.name].type} ({error}); cast the "
            "column",
            code="wrong_type",
            key=name,
            saw=str(table[field.name].type),
        ) from error


def _ids(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Return the IDs as integers, floats, or bytes that may not be UTF-8."""
    type_ = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return column.cast(type_)
    if type_ in (pa.null(), pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        return column.cast(type_).cast(pa.large_binary())
    raise DataError(
        f"{name}: expected IDs that are strings or integers, saw {type_}; cast the column",
        code="wrong_type",
        key=name,
        saw=str(type_),
    )


def _rejection(value: bytes | float | None) -> Rejection | None:
    """Return why an ID is rejected, or None if it is valid."""
    if value is None:
        return "null_id"
    if isinstance(value, float):
        return "nan_id" if math.isnan(value) else "float_id"
    try:
        _ = value.decode() if isinstance(value, bytes) else ""
    except UnicodeDecodeError:
        return "invalid_utf8"
    return None


def _shown(value: bytes | float | None) -> str | float | None:
    """Format an ID for a reader; a valid ID becomes its exact text."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


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
