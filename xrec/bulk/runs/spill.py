"""Keeps all rows of a run on this machine's disk, in DuckDB: they need not fit in memory."""

from collections.abc import Iterable, Iterator
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec.storage import fingerprint_of

EARLIER = "earlier"
"""The column of a planned row that has what an earlier run wrote for it, or null."""
_MEMORY = "1GB"
_ROWS_AT_ONCE = 2**16


class Spill:
    """The distinct rows of `batches`, whose columns are all keys, on disk.

    `fingerprint` is a hash of the set of rows, which does not depend on their order.
    """

    def __init__(self, batches: Iterable[pa.Table], schema: pa.Schema):
        self._schema = schema
        keys = [_quoted(name) for name in schema.names]
        self._keys = ", ".join(keys)
        self._folder = TemporaryDirectory(prefix="xrec-rows-")
        self._database = duckdb.connect(
            config={
                "memory_limit": _MEMORY,
                "temp_directory": self._folder.name,
                "preserve_insertion_order": "false",
            }
        )
        self._keep("given", batches, schema)
        self._database.execute(f"CREATE TABLE rows AS SELECT DISTINCT {self._keys} FROM given")
        self._database.execute("DROP TABLE given")
        # Each key is preceded by its length, so no two rows are hashed as the same text.
        text = " || ".join(f"length({key}) || ' ' || {key}" for key in keys)
        counted = f"SELECT count(*), bit_xor(md5_number({text})) FROM rows"
        ((self.num_rows, digest),) = self._database.execute(counted).fetchall()
        self.fingerprint = fingerprint_of([self.num_rows, digest])

    def chunks(
        self,
        rows_per_chunk: int,
        num_buckets: int,
        earlier: Iterable[pa.Table] = (),
        earlier_schema: pa.Schema | None = None,
    ) -> Iterator[pa.Table]:
        """Yield the rows by bucket and keys, with the column `bucket`, a chunk at a time.

        A chunk has at most `rows_per_chunk` rows, and those of a value of the first key unless they
        are more.

        earlier: rows with the same keys, which stand in the column `EARLIER` beside theirs.
        """
        bucket = f"(md5_number_upper({_quoted(self._schema.names[0])}) >> 32) * {num_buckets} >> 32"
        columns, source = f"{self._keys}, ({bucket})::INTEGER AS bucket", "rows"
        fields = [*self._schema, pa.field("bucket", pa.int32(), nullable=False)]
        if earlier_schema is not None and self._keep("earlier", earlier, earlier_schema):
            columns += f", {EARLIER}"
            source += (
                f" LEFT JOIN (SELECT DISTINCT ON ({self._keys}) {self._keys}, earlier AS {EARLIER}"
                f" FROM earlier) USING ({self._keys})"
            )
            of_null = [field.with_nullable(True) for field in earlier_schema]
            fields.append(pa.field(EARLIER, pa.struct(of_null)))
        sql = f"SELECT {columns} FROM {source} ORDER BY bucket, {self._keys}"
        rows = self._database.sql(sql).to_arrow_reader(_ROWS_AT_ONCE)
        schema = pa.schema(fields)
        tables = (pa.Table.from_batches([batch]).cast(schema) for batch in rows)
        return _cut(tables, rows_per_chunk)

    def delete(self) -> None:
        self._database.close()
        self._folder.cleanup()

    def _keep(self, name: str, batches: Iterable[pa.Table], schema: pa.Schema) -> int:
        num_rows = 0
        self._insert(f"CREATE OR REPLACE TABLE {name} AS", schema.empty_table())
        for batch in batches:
            num_rows += batch.num_rows
            self._insert(f"INSERT INTO {name}", batch.select(schema.names))
        return num_rows

    def _insert(self, what: str, rows: pa.Table) -> None:
        self._database.register("batch", rows)
        self._database.execute(f"{what} SELECT * FROM batch")
        self._database.unregister("batch")


def _quoted(name: str) -> str:
    return f'"{name}"'


def _cut(tables: Iterable[pa.Table], rows_per_chunk: int) -> Iterator[pa.Table]:
    held: pa.Table | None = None
    for table in tables:
        rows = table if held is None else pa.concat_tables([held, table])
        ends = pc.run_end_encode(rows.column(0).combine_chunks()).run_ends.to_numpy()
        start = 0
        while rows.num_rows - start > rows_per_chunk:
            last = int(np.searchsorted(ends, start + rows_per_chunk, side="right")) - 1
            stop = int(ends[last]) if last >= 0 else 0
            if stop <= start:
                stop = start + rows_per_chunk
            yield rows.slice(start, stop - start).combine_chunks()
            start = stop
        held = rows.slice(start)
    if held is not None and held.num_rows:
        yield held.combine_chunks()
