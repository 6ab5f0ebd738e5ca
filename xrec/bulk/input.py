"""The input of a run: rows with invalid IDs are rejected, the others are sorted by DuckDB.

An ID is a string or an integer. Rows with other IDs (null, float, NaN, bytes that are not UTF-8)
are rejected with a reason, because these have no exact text.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from tempfile import TemporaryDirectory
from typing import Literal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec.errors import DataError, StorageError, first_line_of
from xrec.schemas import REJECTED
from xrec.storage import (
    FORGOTTEN,
    Forgotten,
    check_columns,
    fingerprint_of,
    row_groups,
)

_TEXT_BYTES = 200  # kept from a rejected row
Rejection = Literal["null_id", "float_id", "nan_id", "invalid_utf8"]
Batches = Iterable[tuple[pa.Table, pa.Table]]
"""Pairs of good and rejected rows, as returned by `clean_keys`."""


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
    columns = [*ids, *(_given(table, field, f"{file}: column {field.name}") for field in given)]
    texts = [pa.field(name, pa.string(), nullable=False) for name in keys]
    schema = pa.schema([*texts, *given])
    if not any(column.null_count or pa.types.is_floating(column.type) for column in ids):
        with suppress(pa.ArrowInvalid):  # raised if an ID is not UTF-8
            return _cast(columns, schema), REJECTED.empty_table()
    rows = list(zip(*(column.to_pylist() for column in ids), strict=True))
    reasons = [next(filter(None, map(_rejection, row)), None) for row in rows]
    rejected = [
        {"file": file, "line": line, "reason": reason, "text": _shown(keys, row)}
        for line, (row, reason) in enumerate(zip(rows, reasons, strict=True), first_line)
        if reason is not None
    ]
    is_good = pa.array([reason is None for reason in reasons], pa.bool_())
    good = _cast([column.filter(is_good) for column in columns], schema)
    return good, pa.Table.from_pylist(rejected, REJECTED)


def _cast(columns: Sequence[pa.ChunkedArray], schema: pa.Schema) -> pa.Table:
    pairs = zip(columns, schema, strict=True)
    return pa.table([column.cast(field.type) for column, field in pairs], schema)


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


def _shown(keys: Sequence[str], row: Sequence[bytes | float | None]) -> str:
    """Format the IDs of a rejected row for a reader."""
    values = [v.decode("utf-8", "backslashreplace") if isinstance(v, bytes) else v for v in row]
    pairs = zip(keys, values, strict=True)
    return ", ".join(f"{name}={value!r}" for name, value in pairs)[:_TEXT_BYTES]


MEMORY, THREADS = "1GB", 2
"""DuckDB's limits. Its threads share the memory; by default there is one per core."""
ROWS_AT_ONCE = 2**16


class Input:
    """The rows of an input in DuckDB, which spills them to the local disk, until it is closed.

    Good rows are distinct in the columns of `keys`, and have the columns of `given` too. Of rows
    with the same keys, the one with the least values is kept whole; the first column decides before
    the second. Rows of `forgotten` users are rejected without their IDs.

    `fingerprint` is a hash of the set of good rows, and `rejected` the number of other rows by
    reason. Raises StorageError if the disk is full.
    """

    def __init__(
        self,
        batches: Batches,
        keys: pa.Schema,
        given: pa.Schema = pa.schema([]),  # noqa: B008  it is immutable
        forgotten: Sequence[Forgotten] = (),
    ):
        self._schema = pa.schema([*keys, *given])
        names, values = ([f'"{name}"' for name in schema.names] for schema in (keys, given))
        self._first, self._keys = names[0], ", ".join(names)
        self._folder = TemporaryDirectory(prefix="xrec-rows-")
        self._database = duckdb.connect(
            config={
                "memory_limit": MEMORY,
                "threads": THREADS,
                "temp_directory": self._folder.name,
                "preserve_insertion_order": "false",
            }
        )
        self._query("CREATE TABLE rejected(file TEXT, line BIGINT, reason TEXT, text TEXT)")
        self._query("CREATE TABLE given AS FROM batch", batch=self._schema.empty_table())
        good = (self._good(*batch, forgotten) for batch in batches)
        for rows in row_groups(good, ROWS_AT_ONCE):
            self._query("INSERT INTO given FROM batch", batch=rows)
        least = f"min(struct_pack({', '.join(f'{value} := {value}' for value in values)}))"
        kept = (f"struct_extract({least}, '{name}') AS \"{name}\"" for name in given.names)
        columns = ", ".join([self._keys, *kept])
        self._query(f"CREATE TABLE good AS SELECT {columns} FROM given GROUP BY {self._keys}")
        self._query("DROP TABLE given")
        counts = self._query("SELECT reason, count(*) AS n FROM rejected GROUP BY ALL").to_pylist()
        self.rejected = {row["reason"]: row["n"] for row in counts}
        # The length before each key keeps different rows from becoming the same text.
        text = " || ".join(
            [
                *(f"length({name}) || ' ' || {name}" for name in names),
                *(f"' ' || coalesce({value}::VARCHAR, '')" for value in values),
            ]
        )
        digest = f"coalesce(bit_xor(md5_number({text})), 0)::VARCHAR"
        (row,) = self._query(f"SELECT count(*) AS n, {digest} AS digest FROM good").to_pylist()
        self.num_rows: int = row["n"]
        self.fingerprint = fingerprint_of([self.num_rows, int(row["digest"])])

    def chunks(
        self,
        rows_per_chunk: int,
        num_buckets: int,
        prepare: Callable[[pa.Table], pa.Table] = lambda rows: rows,
    ) -> Iterator[pa.Table]:
        """Yield chunks of good rows, sorted by bucket and keys, with the column `bucket`.

        A chunk has at most `rows_per_chunk` rows. Rows with the same first key are in one chunk
        unless there are more than that. num_buckets: a power of two. prepare: called with many rows
        at a time, in order; may drop rows and add columns.
        """
        schema = pa.schema([*self._schema, pa.field("bucket", pa.int32(), nullable=False)])
        bucket = f"((md5_number_upper({self._first}) >> 32) * {num_buckets} >> 32)::INTEGER"
        sql = f"SELECT *, {bucket} AS bucket FROM good ORDER BY bucket, {self._keys}"
        rows = (table.cast(schema) for table in self._stream(sql))
        return _chunked(map(prepare, row_groups(rows, ROWS_AT_ONCE)), rows_per_chunk)

    def first_rejected(self) -> pa.Table:
        """Return a table with the first rejected row, or an empty table."""
        return self._query("FROM rejected ORDER BY rowid LIMIT 1")

    def rejected_rows(self) -> pa.RecordBatchReader:
        """Return all rejected rows in order, with the columns of REJECTED."""
        return self._database.execute("FROM rejected ORDER BY rowid").to_arrow_reader(ROWS_AT_ONCE)

    def close(self) -> None:
        self._database.close()
        self._folder.cleanup()

    def _good(self, good: pa.Table, bad: pa.Table, forgotten: Sequence[Forgotten]) -> pa.Table:
        """Return the good rows of a batch without forgotten users, and keep the rejected ones."""
        num_given = good.num_rows
        for users in forgotten:
            good = users.without(good)
        text, gone = "''" if forgotten else "text", f"range({num_given - good.num_rows})"
        self._query(
            f"INSERT INTO rejected SELECT file, line, reason, {text} FROM bad "
            f"UNION ALL SELECT '', 0, '{FORGOTTEN}', '' FROM {gone}",
            bad=bad,
        )
        return good.select(self._schema.names)

    def _query(self, sql: str, **tables: pa.Table) -> pa.Table:
        """Return the rows of a query, which may name `tables`."""
        with self._disk_errors():
            for name, table in tables.items():
                self._database.register(name, table)
            return self._database.execute(sql).to_arrow_table()

    def _stream(self, sql: str) -> Iterator[pa.Table]:
        """Yield the rows of a query, some at a time."""
        with self._disk_errors():
            for batch in self._database.execute(sql).to_arrow_reader(ROWS_AT_ONCE):
                yield pa.Table.from_batches([batch])

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Turn errors of DuckDB and the disk into StorageError."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error.__cause__, KeyboardInterrupt):  # it came during a query
                raise error.__cause__ from None
            raise
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise StorageError(
                f"{self._folder.name}: cannot sort the rows of the run on this disk: "
                f"{first_line_of(error)}; set TMPDIR to a folder on a larger disk",
                code="no_room",
                key="TMPDIR",
            ) from error


def _chunked(tables: Iterable[pa.Table], rows_per_chunk: int) -> Iterator[pa.Table]:
    rest: pa.Table | None = None
    for table in tables:
        rows = table if rest is None else pa.concat_tables([rest, table])
        ends = pc.run_end_encode(rows.column(0).combine_chunks()).run_ends.to_numpy()
        start = 0
        while rows.num_rows - start > rows_per_chunk:
            last = int(np.searchsorted(ends, start + rows_per_chunk, side="right")) - 1
            stop = int(ends[last]) if last >= 0 else 0
            if stop <= start:
                stop = start + rows_per_chunk
            yield rows.slice(start, stop - start).combine_chunks()
            start = stop
        rest = rows.slice(start)
    if rest is not None and rest.num_rows:
        yield rest.combine_chunks()
