"""The rows and columns of a user's files, read with DuckDB.

The jobs read the files again and reject what they cannot use; here a rough reading is enough.
"""

import gzip
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from tempfile import TemporaryDirectory
from typing import Any, get_args

import duckdb

from xrec.annotate import parse_number, parse_time
from xrec.config import TABLE_ENDINGS, Delimiter
from xrec.errors import DataError, StorageNotFoundError
from xrec.init import names
from xrec.storage import Location

_MOST_BAD = 0.05  # largest share of invalid cells in a column that is still used
_ENCODING = "cp1252"  # for lines that are not UTF-8: the Windows encoding, which covers Latin-1
_PARSERS: Mapping[str, Callable[[object], Any]] = {"rating": parse_number, "time": parse_time}


@dataclass(frozen=True)
class Column:
    """A column of a file. ours: the xrec column that the user mapped it to, if any."""

    name: str
    ours: str | None
    table: duckdb.DuckDBPyRelation

    @property
    def known_as(self) -> str:
        """The name from which its meaning is guessed."""
        return self.ours or self.name

    @cached_property
    def counts(self) -> Counter[str]:
        """The number of occurrences of each value; empty cells are not counted."""
        column = quoted(self.name)
        return Counter(dict(self._rows(f"{column}, count(*)", f"GROUP BY {column}")))

    @cached_property
    def mean_words(self) -> float:
        """The mean number of words per non-empty cell."""
        words = f"avg(len(string_split_regex(trim({quoted(self.name)}), '\\s+')))"
        ((mean,),) = self._rows(words)
        return float(mean or 0)

    @cached_property
    def is_number(self) -> bool:
        """Whether nearly all values are numbers."""
        number = f"TRY_CAST(replace({quoted(self.name)}, ',', '.') AS DOUBLE)"
        ((share,),) = self._rows(f"avg(({number} IS NOT NULL)::INT)")
        return (share or 0) >= 1 - _MOST_BAD

    @cached_property
    def is_key(self) -> bool:
        """Whether nearly all values differ."""
        column = quoted(self.name)
        ((num_filled, num_different),) = self._rows(f"count(*), count(DISTINCT {column})")
        return bool(0 < 0.98 * num_filled <= num_different)

    def parsed(self, meaning: str) -> tuple[Counter[str], list[float | None]]:
        """Return counts of the values that are not valid ratings or times; the others parsed."""
        bad, good = Counter[str](), list[float | None]()
        for value, count in self.counts.items():
            try:
                good += [_PARSERS[meaning](value)] * count
            except ValueError:
                bad[value] = count
        return bad, good

    def is_mostly(self, meaning: str) -> bool:
        """Return whether at least 19 in 20 cells are a valid rating or time."""
        bad, good = self.parsed(meaning)
        return bad.total() <= _MOST_BAD * self.counts.total() and bool(good)

    def _rows(self, what: str, end: str = "") -> list[tuple[Any, ...]]:
        column = quoted(self.name)
        return self.table.query("t", f"SELECT {what} FROM t WHERE {column} <> '' {end}").fetchall()


@dataclass(frozen=True)
class File:
    """A file with a table."""

    name: str
    num_rows: int
    columns: tuple[Column, ...]

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)


@dataclass(frozen=True)
class Folder:
    """The tables of a folder; `others` are files that xrec cannot read.

    foreign: for each file, how many lines are not UTF-8, and the first one, decoded as cp1252.
    """

    location: Location
    files: tuple[File, ...]
    others: tuple[str, ...]
    delimiter: str
    foreign: Mapping[str, tuple[int, str]]

    @property
    def settings(self) -> dict[str, Any]:
        """The values of a `source` that specify where its files are and how to read them."""
        encoding = _ENCODING if self.foreign else None
        uri = self.location.uri
        return {"uri": uri, "delimiter": self.delimiter, "encoding": encoding}


def read_folder(location: Location, given: Mapping[str, str]) -> Folder:
    """Read every table in the folder `location`, without subfolders, or the single file `location`.

    given: the user's mapping from columns of the files to columns of xrec.

    Raises StorageNotFoundError if it does not exist, DataError if it contains no table, or if a
    table is empty or cannot be read.
    """
    found = {location.name: location} if location.is_file() else _files_in(location)
    tables = {name: at for name, at in found.items() if name.lower().endswith(TABLE_ENDINGS)}
    if not tables:
        seen = tuple(found)[:10]
        raise DataError(
            f"{location}: no file that xrec can read; expected files that end with "
            f"{', '.join(TABLE_ENDINGS)}, saw {', '.join(seen) or 'no files'}",
            code="no_table_file",
            key="--from",
            saw=seen,
        )
    contents = {name: _unpacked(name, at) for name, at in tables.items()}
    delimiter = _delimiter(contents)
    database, foreign = duckdb.connect(), dict[str, tuple[int, str]]()
    files = list[File]()
    with TemporaryDirectory(prefix="xrec-init-") as folder:
        for number, (name, data) in enumerate(contents.items()):
            if not name.lower().endswith(".parquet"):
                data, lines = _as_utf8(data)
                if lines:
                    foreign[name] = len(lines), lines[0]
            path = f"{folder}/{number}"
            with open(path, "wb") as file:
                file.write(data)
            files.append(_read(database, path, f"file{number}", name, delimiter, given))
    others = tuple(name for name in found if name not in tables)
    return Folder(location, tuple(files), others, delimiter, foreign)


def _files_in(location: Location) -> dict[str, Location]:
    found = [name for name in location.files() if "/" not in name and name[0] not in "._"]
    if not found and not location.exists():
        raise StorageNotFoundError(
            f"{location}: no such file or folder; check --from",
            code="missing_file",
            key="--from",
            saw=location.uri,
        )
    return {name: location / name for name in found}


def _unpacked(name: str, location: Location) -> bytes:
    """Return the content of a file; raise DataError if it is empty, truncated or binary."""
    data, problem, code = location.read_bytes(), "", "broken_file"
    if name.lower().endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            problem = f"not a complete gzip file ({error})"
    if not data:
        problem, code = "an empty file", "empty_file"
    elif not problem and b"\0" in data[:65536] and not name.lower().endswith(".parquet"):
        problem, code = "binary content, expected text (in UTF-8, not UTF-16)", "binary_file"
    elif data.lstrip().startswith(b"[") and ".json" in name.lower():
        problem, code = "a JSON array; jq -c '.[]' turns it into JSON lines", "no_readable_row"
    if problem:
        raise DataError(
            f"{location}: {problem}; fix it, or move it out of the folder", code=code, key=name
        )
    return data


def _delimiter(contents: Mapping[str, bytes]) -> str:
    """Return the delimiter of the CSV files: the one that is most frequent in their headers.

    DuckDB's sniffer picks a wrong one if rows are ragged. Raises DataError if the files differ.
    """
    found: dict[str, list[str]] = {}
    for name, data in contents.items():
        if ".csv" in name.lower():
            header = data.partition(b"\n")[0].decode("utf-8", errors="replace")
            best = max(get_args(Delimiter), key=header.count)
            if best in header:  # a file with a single column has no delimiter
                found.setdefault(best, []).append(name)
    if len(found) > 1:
        shown = "; ".join(f"{delimiter!r} in {', '.join(of)}" for delimiter, of in found.items())
        raise DataError(
            f"the columns of the CSV files are separated by {shown}; expected the same delimiter "
            "in all of them, as set by source.delimiter; convert the others, or move those that "
            "are not needed out of the folder",
            code="several_delimiters",
            saw=tuple(found),
        )
    return next(iter(found), ",")


def _as_utf8(data: bytes) -> tuple[bytes, list[str]]:
    """Return a text in UTF-8, and its lines that were in another encoding."""
    lines, foreign = data.split(b"\n"), list[str]()
    for number, line in enumerate(lines):
        try:
            line.decode()
        except UnicodeDecodeError:
            foreign.append(line.decode(_ENCODING, errors="replace"))
            lines[number] = foreign[-1].encode()
    return b"\n".join(lines) if foreign else data, foreign


def _read(
    database: duckdb.DuckDBPyConnection,
    path: str,
    table: str,
    name: str,
    delimiter: str,
    given: Mapping[str, str],
) -> File:
    """Load a file into `table`; raise DataError if no row can be read."""
    try:
        if name.lower().endswith(".parquet"):
            rows = database.read_parquet(path)
        elif ".json" in name.lower():
            sql = "FROM read_json(?, format = 'newline_delimited', ignore_errors = true)"
            rows = database.sql(sql, params=[path])
        else:
            of_file = "\t" if ".tsv" in name.lower() else delimiter
            sql = """FROM read_csv(?, delim = ?, header = true, all_varchar = true, quote = '"',
                escape = '"', ignore_errors = true, strict_mode = false)"""
            rows = database.sql(sql, params=[path, of_file])
        columns = [_as_text(*each) for each in zip(rows.columns, rows.types, strict=True)]
        usable = {text: column for text, column in zip(columns, rows.columns, strict=True) if text}
        rows.project(", ".join(usable)).create(table)
    except duckdb.Error as error:
        raise DataError(
            f"{name}: cannot be read: {str(error).splitlines()[0]}; fix it, or move it out of the "
            "folder",
            code="broken_file",
            key=name,
        ) from error
    made = database.table(table)
    ((num_rows,),) = made.aggregate("count(*)").fetchall()
    if not num_rows:
        raise DataError(
            f"{name}: no row can be read; fix it, or move it out of the folder",
            code="no_readable_row",
            key=name,
        )
    own = [Column(column, given.get(column), made) for column in usable.values()]
    return File(name, num_rows, tuple(own))


def _as_text(name: str, type_: Any) -> str:
    """Return SQL that reads a column as text; "" for objects and for lists of lists or objects."""
    column, kind = quoted(name), str(type_)
    if kind.startswith(("STRUCT", "MAP")) or kind.endswith((")[]", "[][]")):
        return ""
    text = f"{column}->>'$'" if kind == "JSON" else f"{column}::VARCHAR"
    return f"({text}) AS {column}"


def quoted(name: str) -> str:
    """Return the name of a column as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def likeliest(columns: Iterable[Column], meaning: names.Meaning) -> Column | None:
    """Return the column whose name best fits the meaning; columns that the user mapped go first."""
    ranked = [
        (column.ours is None, rank, column)
        for column in columns
        if (rank := names.rank(column.known_as, meaning)) is not None
    ]
    return min(ranked, key=lambda each: each[:2])[2] if ranked else None
