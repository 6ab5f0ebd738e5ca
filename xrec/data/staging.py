"""The rows of a source in a database that spills to the disk, until they are a dataset's tables.

A source of any size is read as a stream into the schema `raw`; joins, sorts and the search for
repeated rows are SQL, within a limit of memory. Beyond it, rows lie in a folder for temporary
files.
"""

import errno
import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any, Self

import duckdb
import numpy as np
import pyarrow as pa
from duckdb.func import ARROW

from xrec.config import TABLE_COLUMNS, SplitShares
from xrec.data.rows import FileRows
from xrec.data.source import Finding, Rejected, rejected_table
from xrec.data.splits import split_pairs
from xrec.errors import StorageError
from xrec.storage import FORGOTTEN, Forgotten, Location, storage_errors

_SPLIT = " REPLACE (coalesce(split, split_of(user_id, item_id)) AS split)"
_BATCH_ROWS = 2**16
_MERGED_ROWS = 122_880  # at a time, in memory, by each thread of DuckDB's sorts


class Staging:
    """A database of the source's rows, for one thread; a context, which deletes it at the end.

    Rows of the raw tables have their file's number and their line. Other tables than those of
    `TABLE_COLUMNS` are there if the source has them (`has`).

    num_rows: by file, or by table where a table has many files; rows that are left out included.
    hashes: of the content of the files that were read, by name.
    num_forgotten: rows of `forgotten` users, which are left out, by "table: forgotten". Findings
    have no texts then, which may name these users too.
    """

    def __init__(
        self,
        shares: SplitShares,
        memory_gb: float | None = None,
        forgotten: Forgotten = Forgotten(),  # noqa: B008  it is frozen
    ):
        self.num_rows, self.num_forgotten = Counter[str](), Counter[str]()
        self._forgotten = forgotten
        self.hashes: dict[str, str] = {}
        self._tables: set[str] = set()
        self._num_bytes = Counter[str]()  # of the rows of each table
        self._sort_bytes = 0  # that each thread of a sort needs, as far as it is known
        self._folder = TemporaryDirectory(prefix="xrec-prepare-")
        limit = {} if memory_gb is None else {"memory_limit": f"{memory_gb}GB"}
        self.database = duckdb.connect(
            f"{self._folder.name}/rows.duckdb",
            config={
                "temp_directory": f"{self._folder.name}/spilled",
                "preserve_insertion_order": "false",  # what needs an order says it
                **limit,
            },
        )
        self.sql("CREATE SCHEMA raw")
        self.sql("CREATE TABLE files(file INT, name TEXT, counted TEXT)")
        self.sql("CREATE TABLE findings(file INT, line INT8, reason TEXT, text TEXT)")
        for table, columns in TABLE_COLUMNS.items():
            self.create(table, columns)
        self._tables.clear()
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
        if is_full or isinstance(error, duckdb.IOException | duckdb.OutOfMemoryException):
            raise StorageError(
                f"{self._folder.name}: no room for the rows of the source: "
                f"{str(error).splitlines()[0]}; set TMPDIR to a folder on a larger disk, or "
                f"change prepare.memory_gb (these rows need {self._sort_bytes / 1e9:.2f} at least)",
                code="disk_full",
                key="prepare.memory_gb",
            ) from error

    def sql(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        """Run a statement; returns its rows."""
        return self.database.execute(query, values).fetchall()

    def has(self, table: str) -> bool:
        """Whether the source has the table."""
        return table in self._tables

    def create(self, table: str, columns: Sequence[str] = ()) -> None:
        """Make an empty raw table of texts, if it is not there, which the source has."""
        names = "".join(f"{column} TEXT, " for column in columns)
        self.sql(f"CREATE TABLE IF NOT EXISTS raw.{table}({names}file INT, line INT8)")
        self._tables.add(table)

    def read(
        self,
        table: str,
        files: Mapping[str, Location],
        stream: Callable[[str, IO[bytes]], Iterable[FileRows]],
        as_rows: Callable[[pa.Table], pa.Table] = lambda rows: rows,
    ) -> None:
        """Read the files of a raw table, a block at a time, each with its name.

        as_rows: makes rows of the table of those of a file. Raises DataError, StorageError.
        """
        self.sql("BEGIN")  # one transaction, or each block would wait for the disk
        for name, location in files.items():
            counted = name if len(files) == 1 else f"{table} ({len(files)} files)"
            self.num_rows[counted] += 0
            number = self._number(name, counted)
            with self._opened(name, location) as source:
                for part in stream(name, source):
                    self.num_rows[counted] += part.num_rows
                    self._insert(f"raw.{table}", as_rows(part.table), number)
                    if part.findings:
                        told = self._forgotten.without_texts(part.findings)
                        found = rejected_table(told).drop_columns("file")
                        self._insert("findings", found, number)
        self.sql("COMMIT")
        self._tables.add(table)

    def add(self, tables: Mapping[str, pa.Table]) -> None:
        """Take whole tables, whose lines are their rows' numbers."""
        for table, rows in tables.items():
            self._tables.add(table)
            self.num_rows[table] += rows.num_rows
            lines = pa.array(np.arange(1, rows.num_rows + 1))
            rows = rows.append_column("line", lines)
            if table not in TABLE_COLUMNS:
                self.database.register("batch", rows.slice(0, 0))
                self.sql(f"CREATE TABLE raw.{table} AS SELECT *, NULL::INT AS file FROM batch")
            self._insert(f"raw.{table}", rows, self._number(table, table))

    def reject(self, table: str, reasons: str) -> None:
        """Add rows of a raw table to the findings.

        reasons: a query for `file`, `line` and `reason`. The text of a finding is its row's values.
        """
        values = ", ".join(f"{column}: {column}" for column in TABLE_COLUMNS[table])
        self.sql(f"""
            INSERT INTO findings SELECT file, line, reason, to_json({{{values}}})
            FROM ({reasons}) JOIN raw.{table} USING (file, line)""")

    def rejected(self) -> list[Rejected]:
        """The rows that were left out, by file (or table) and reason."""
        found = self.sql("""
            SELECT counted, reason, count(*),
                arg_min({file: name, line: line, reason: reason, text: text}, line)
            FROM findings JOIN files USING (file) GROUP BY counted, reason""")
        return [
            Rejected(file, reason, count, Finding(**first)) for file, reason, count, first in found
        ]

    def findings(self) -> pa.RecordBatchReader:
        """All findings by file and line, in the columns of REJECTED."""
        return self.reader("""
            SELECT name AS file, line, reason, left(text, 120) AS text
            FROM findings JOIN files USING (file) ORDER BY name, line, reason""")

    def reader(self, query: str) -> pa.RecordBatchReader:
        """The rows of a query as a stream; those of several queries may be read side by side.

        They come in the order of the query, or in that in which its table was made.
        """
        self.sql("SET preserve_insertion_order = true")
        return self.database.cursor().sql(query).to_arrow_reader(_BATCH_ROWS)

    def limit_threads(self) -> None:
        """Let as many threads sort as have room in memory for rows as long as the source's.

        Beyond it they do not spill, but fail.
        """
        merged = (
            size * min(1, _MERGED_ROWS / self.count(table))
            for table, size in self._num_bytes.items()
        )
        self._sort_bytes = 1 + int(1.5 * max(merged, default=0))
        self.sql(f"""
            SET threads = greatest(1, least(current_setting('threads'),
                parse_formatted_bytes(current_setting('memory_limit')) // {self._sort_bytes}))""")

    def count(self, table: str, condition: str = "true") -> int:
        """The number of the table's rows that meet the condition."""
        return int(self.sql(f"SELECT count(*) FROM {table} WHERE {condition}")[0][0])

    def table(self, query: str) -> pa.Table:
        """The rows of a query."""
        return self.database.execute(query).to_arrow_table()

    def _insert(self, table: str, rows: pa.Table, file: int) -> None:
        given, rows = rows.num_rows, self._forgotten.without(rows)
        if given > rows.num_rows:
            self.num_forgotten[f"{table.removeprefix('raw.')}: {FORGOTTEN}"] += (
                given - rows.num_rows
            )
        if rows.num_rows:
            self._num_bytes[table] += rows.nbytes
        self.database.register("batch", rows)
        split = _SPLIT if "split" in rows.column_names else ""
        self.sql(
            f"INSERT INTO {table} BY NAME SELECT *{split}, $file AS file FROM batch", file=file
        )
        self.database.unregister("batch")

    def _number(self, name: str, counted: str) -> int:
        number = self.count("files")
        values = {"number": number, "name": name, "counted": counted}
        self.sql("INSERT INTO files VALUES ($number, $name, $counted)", **values)
        return number

    @contextmanager
    def _opened(self, name: str, location: Location) -> Iterator[IO[bytes]]:
        """A copy of a file, whose content is hashed."""
        with TemporaryFile(dir=self._folder.name) as copy:
            with storage_errors(location.uri), location.fs.open(location.path, "rb") as opened:
                shutil.copyfileobj(opened, copy)
            copy.seek(0)
            self.hashes[name] = hashlib.file_digest(copy, "sha256").hexdigest()[:16]
            copy.seek(0)
            yield copy
