"""Holds the rows of a source in a database that spills to disk, until they become a dataset.

A source of any size is streamed into the schema `raw`; joins, sorts, and the search for repeated
rows are SQL within a memory limit. Rows beyond the limit are stored in a temporary folder.
"""

import errno
import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any, Self

import duckdb
import numpy as np
import pyarrow as pa
from duckdb.func import ARROW

from xrec.config import TABLE_COLUMNS, SplitShares
from xrec.data.findings import Finding, Rejected, rejected_table
from xrec.data.rows import FileRows
from xrec.data.splits import split_pairs
from xrec.errors import StorageError, first_line_of
from xrec.storage import FORGOTTEN, Forgotten, Location, storage_errors

_BATCH_ROWS = 2**16
_BYTES_PER_THREAD = 2**28  # of memory: DuckDB's sorts spill the excess, but fail with much less


class Staging:
    """A database of the source's rows, for one thread; a context manager that deletes it on exit.

    Each row of a raw table has its file number and line number. Tables that are not in
    `TABLE_COLUMNS` exist only if the source has them (`has`).

    num_rows: by file, or by table if a table has several files, including rows left out.
    hashes: hashes of the content of the files that were read, by file name.
    num_forgotten: rows of `forgotten` users, which are left out, by "table: forgotten". Findings
    have no texts in that case, because the texts may name these users too.
    """

    def __init__(
        self,
        shares: SplitShares,
        memory_gb: float | None = None,
        forgotten: Forgotten = Forgotten(),  # noqa: B008  it is frozen
    ):
        self.num_rows, self.num_forgotten = Counter[str](), Counter[str]()
        self.forgotten = forgotten
        self.hashes: dict[str, str] = {}
        self._tables: set[str] = set()
        self._folder = TemporaryDirectory(prefix="xrec-prepare-")
        limit = {} if memory_gb is None else {"memory_limit": f"{memory_gb}GB"}
        self.database = duckdb.connect(
            f"{self._folder.name}/rows.duckdb",
            config={
                "temp_directory": f"{self._folder.name}/spilled",
                "preserve_insertion_order": "false",  # queries that need an order request it
                **limit,
            },
        )
        self.sql(f"""
            SET threads = greatest(1, least(current_setting('threads'),
                parse_formatted_bytes(current_setting('memory_limit')) // {_BYTES_PER_THREAD}))""")
        self.sql("CREATE SCHEMA raw")
        self.sql("CREATE TABLE files(file INT, name TEXT, counted TEXT)")
        self.sql("CREATE TABLE findings(file INT, line INT8, reason TEXT, text TEXT)")
        for table, columns in TABLE_COLUMNS.items():
            names = " TEXT, ".join(columns)
            self.sql(f"CREATE TABLE raw.{table}({names} TEXT, line INT8, file INT)")
        self.database.create_function(
            "split_of",
            lambda users, items: pa.array(
                split_pairs(users.to_pylist(), items.to_pylist(), shares), pa.string()
            ),
            ["VARCHAR", "VARCHAR"],
            "VARCHAR",
            type=ARROW,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.database.close()
        self._folder.cleanup()
        is_full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        is_full |= isinstance(error, duckdb.IOException | duckdb.OutOfMemoryException)
        if error is not None and is_full:
            raise StorageError(
                f"{self._folder.name}: not enough space for the rows of the source: "
                f"{first_line_of(error)}; set TMPDIR to a folder on a larger disk, or "
                "raise prepare.memory_gb",
                code="disk_full",
                key="prepare.memory_gb",
            ) from error

    def sql(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        return self.database.execute(query, values).fetchall()

    def has(self, table: str) -> bool:
        """Return whether the source has the table."""
        return table in self._tables

    def read(
        self,
        table: str,
        files: Mapping[str, Location],
        stream: Callable[[str, IO[bytes]], Iterable[FileRows]],
    ) -> None:
        """Read the files of a raw table block by block; may raise DataError or StorageError."""
        self.sql("BEGIN")  # one transaction; otherwise each block would wait for the disk
        for name, location in files.items():
            counted = name if len(files) == 1 else f"{table} ({len(files)} files)"
            with self._opened(name, location) as source:
                self._add(table, name, counted, stream(name, source))
        self.sql("COMMIT")

    def add(self, tables: Mapping[str, pa.Table]) -> None:
        """Add whole tables; the line numbers are the row numbers, from 1."""
        for table, rows in tables.items():
            lines = pa.array(np.arange(1, rows.num_rows + 1))
            self._add(table, table, table, [FileRows(table, rows.append_column("line", lines))])

    def fill(self, table: str, query: str) -> None:
        """Add the rows of a query to a raw table; `has` is true for the table from then on."""
        self.sql(f"INSERT INTO raw.{table} BY NAME {query}")
        self._tables.add(table)

    def reject(self, table: str, reasons: str) -> None:
        """Add rows of a raw table to the findings.

        reasons: a query for `file`, `line`, and `reason`. A finding's text is its row as JSON.
        """
        values = ", ".join(f"{column}: {column}" for column in TABLE_COLUMNS[table])
        self.sql(f"""
            INSERT INTO findings SELECT file, line, reason, left(to_json({{{values}}}), 120)
            FROM ({reasons}) JOIN raw.{table} USING (file, line)""")

    def rejected(self) -> list[Rejected]:
        """Return how many rows were left out, by file (or table) and reason."""
        found = self.sql("""
            SELECT counted, reason, count(*),
                arg_min({file: name, line: line, reason: reason, text: text}, line)
            FROM findings JOIN files USING (file) GROUP BY counted, reason""")
        return [
            Rejected(file, reason, count, Finding(**first)) for file, reason, count, first in found
        ]

    def findings(self) -> pa.RecordBatchReader:
        """Return all findings, sorted by file and line, in the columns of REJECTED."""
        return self.reader("""
            SELECT name AS file, line, reason, text
            FROM findings JOIN files USING (file) ORDER BY name, line, reason""")

    def reader(self, query: str) -> pa.RecordBatchReader:
        """Return the rows of a query as a stream; several streams can be read at the same time.

        The rows are in the query's order, or else in the order in which the table was filled.
        """
        self.sql("SET preserve_insertion_order = true")
        return self.database.cursor().sql(query).to_arrow_reader(_BATCH_ROWS)

    def count(self, table: str, condition: str = "true") -> int:
        """Return the number of the table's rows that meet the condition."""
        return int(self.sql(f"SELECT count(*) FROM {table} WHERE {condition}")[0][0])

    def table(self, query: str) -> pa.Table:
        """Return the rows of a query as a table."""
        return self.database.execute(query).to_arrow_table()

    def _add(self, table: str, file: str, counted: str, parts: Iterable[FileRows]) -> None:
        number = self.count("files")
        self.database.execute("INSERT INTO files VALUES (?, ?, ?)", [number, file, counted])
        self._tables.add(table)
        for part in parts:
            self.num_rows[counted] += part.num_rows
            rows = self.forgotten.without(part.table)
            if num_forgotten := part.table.num_rows - rows.num_rows:
                self.num_forgotten[f"{table}: {FORGOTTEN}"] += num_forgotten
            self._insert(f"raw.{table}", rows, number)
            if part.findings:
                shown = rejected_table(self.forgotten.without_texts(part.findings))
                self._insert("findings", shown.drop_columns("file"), number)

    def _insert(self, table: str, rows: pa.Table, file: int) -> None:
        self.database.register("batch", rows)
        splits = " REPLACE (coalesce(split, split_of(user_id, item_id)) AS split)"
        is_split = "split" in rows.column_names and table != "raw.aspects"  # its pairs are
        columns = f"*{splits if is_split else ''}, {file}::INT AS file"
        if table.removeprefix("raw.") not in (*TABLE_COLUMNS, "findings"):
            self.sql(f"CREATE TABLE IF NOT EXISTS {table} AS SELECT {columns} FROM batch LIMIT 0")
        self.sql(f"INSERT INTO {table} BY NAME SELECT {columns} FROM batch")
        self.database.unregister("batch")

    @contextmanager
    def _opened(self, name: str, location: Location) -> Iterator[IO[bytes]]:
        """Yield a local copy of a file, and record the hash of its content."""
        with TemporaryFile(dir=self._folder.name) as copy:
            with storage_errors(location.uri), location.fs.open(location.path, "rb") as opened:
                shutil.copyfileobj(opened, copy)
            copy.seek(0)
            self.hashes[name] = hashlib.file_digest(copy, "sha256").hexdigest()[:16]
            copy.seek(0)
            yield copy
