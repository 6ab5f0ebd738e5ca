"""Read and write Parquet files: whole tables with a schema from xrec.schemas, and footers."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from tempfile import NamedTemporaryFile

import pyarrow as pa
import pyarrow.parquet as pq

from xrec.errors import DataError
from xrec.storage.location import Location
from xrec.storage.manifest import content_hash

_TAIL_BYTES = 256 * 1024
_GROUP_ROWS = 2**16


def read_footer(location: Location) -> pq.FileMetaData:
    """Return a file's footer, using one request or, rarely, two.

    Raises pyarrow.ArrowInvalid if it is not a Parquet file.
    """
    tail = location.read_range(-_TAIL_BYTES, _TAIL_BYTES)
    needed = int.from_bytes(tail[-8:-4], "little") + 8
    if len(tail) == _TAIL_BYTES < needed:
        if needed > (num_bytes := int(location.stamp().partition(" ")[0])):
            raise pa.ArrowInvalid(f"the footer has {needed} bytes, the file {num_bytes}")
        tail = location.read_range(-needed, needed)
    return pq.read_metadata(pa.BufferReader(tail))


def write_table(
    location: Location, table: pa.Table | pa.RecordBatchReader, schema: pa.Schema
) -> str:
    """Write `table`, cast to `schema`, as one zstd Parquet file; return its content hash.

    The rows of a reader are written in row groups through a temporary file, whose content does not
    depend on the sizes of the reader's batches.
    """
    if isinstance(table, pa.Table):
        data = parquet_bytes(table, schema)
        location.write_bytes(data)
        return content_hash(data)
    with NamedTemporaryFile(prefix="xrec-", suffix=".parquet") as file:
        with pq.ParquetWriter(file.name, schema, compression="zstd") as writer:
            for rows in row_groups(map(pa.table, table), _GROUP_ROWS):
                writer.write_table(rows.select(schema.names).cast(schema).combine_chunks())
        location.write_file(file.name)
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def row_groups(tables: Iterable[pa.Table], num_rows: int) -> Iterator[pa.Table]:
    """Yield the rows of `tables` in tables of `num_rows` rows; the last one may be smaller."""
    rest: pa.Table | None = None
    for table in tables:
        rest = table if rest is None else pa.concat_tables([rest, table])
        while rest.num_rows >= num_rows:
            yield rest.slice(0, num_rows)
            rest = rest.slice(num_rows)
    if rest is not None and rest.num_rows:
        yield rest


def parquet_bytes(table: pa.Table, schema: pa.Schema) -> bytes:
    """Return `table`, with the columns and types of `schema`, as a zstd Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.select(schema.names).cast(schema), sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_table(location: Location, schema: pa.Schema) -> pa.Table:
    """Return the rows of a Parquet file; raise DataError if its schema differs from `schema`."""
    data = location.read_bytes()
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{location}: not a valid Parquet file ({error}); it was edited, or its job was "
            "interrupted: make it again",
            code="broken_file",
            key=str(location),
        ) from error
    check_schema(location, table.schema, schema)
    return table


def check_columns(source: str, wanted: Sequence[str], seen: Sequence[str]) -> None:
    """Raise DataError if one of the `wanted` columns is not among those `seen` in `source`."""
    if missing := [name for name in wanted if name not in seen]:
        raise DataError(
            f"{source}: expected columns {', '.join(wanted)}, got {', '.join(seen)}; rename or add "
            "them",
            code="missing_column",
            key=missing[0],
            saw=seen,
        )


def check_schema(location: Location, schema: pa.Schema, expected: pa.Schema) -> None:
    """Raise DataError if the schema of the table at `location` is not the expected one."""
    if not schema.equals(expected):
        raise DataError(
            f"{location}: expected columns\n{expected}\ngot\n{schema.remove_metadata()}",
            code="other_columns",
            key=str(location),
            saw=schema.names,
        )
