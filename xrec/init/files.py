"""What lies in a user's folder: each file's rows, and of each column what its values look like."""

import gzip
import io
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

from xrec.annotate import parse_number
from xrec.config import TABLE_ENDINGS, Delimiter
from xrec.data.blocks import stream_lines
from xrec.data.lines import decoded, keys_of
from xrec.errors import DataError, StorageNotFoundError
from xrec.init import words
from xrec.storage import Location

_MAX_FILES = 40
_SHOWN = 10
_HEAD_BYTES = 65536
_MOST_BAD = 0.05  # of the cells of a column that is used nevertheless
_ENCODING = "cp1252"  # of lines that are not UTF-8: Windows', with all of Latin-1

Parse = Callable[[object], object]


@dataclass(frozen=True)
class Column:
    """A column of a file: how often each value is there, as a string, and how many cells are empty.

    ours: our column that the user says it is.
    """

    name: str
    counts: Counter[str]
    num_empty: int
    ours: str | None = None

    @property
    def known_as(self) -> str:
        """The name that tells its meaning."""
        return self.ours or self.name

    @cached_property
    def mean_words(self) -> float:
        """Words of a value."""
        return sum(len(value.split()) for value in self.counts) / max(1, len(self.counts))

    @cached_property
    def is_number(self) -> bool:
        """Whether its values are numbers, but for a few."""
        return self.is_mostly(parse_number)

    @property
    def is_key(self) -> bool:
        """True if no two of its values are equal, but for a few."""
        return 0 < 0.98 * self.counts.total() <= len(self.counts)

    def is_mostly(self, parse: Parse) -> bool:
        """Whether `parse` refuses at most one in twenty of its cells."""
        bad, good = self.parsed(parse)
        return bad.total() <= _MOST_BAD * self.counts.total() and bool(good)

    def parsed(self, parse: Parse) -> tuple[Counter[str], list[Any]]:
        """The values for which `parse` raises ValueError, and what it makes of the other cells."""
        bad, good = Counter[str](), list[Any]()
        for value, count in self.counts.items():
            try:
                good += [parse(value)] * count
            except ValueError:
                bad[value] = count
        return bad, good


@dataclass(frozen=True)
class File:
    """A file that holds a table: its rows, those that cannot be read included, and its columns."""

    name: str
    num_rows: int
    columns: tuple[Column, ...]

    @property
    def stem(self) -> str:
        return self.name.partition(".")[0]

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)


@dataclass(frozen=True)
class Folder:
    """The tables of a folder; `contents` by file name, `others` are files that xrec cannot read.

    foreign: by file name, the lines that are not UTF-8, read in `encoding`, which is null if there
    are none.
    """

    location: Location
    files: tuple[File, ...]
    contents: Mapping[str, bytes]
    others: tuple[str, ...]
    delimiter: str
    foreign: Mapping[str, Sequence[str]]

    def settings(self) -> dict[str, Any]:
        """The values of a `source` that say how its files are read, and where they are."""
        encoding = _ENCODING if self.foreign else None
        uri = self.location.uri
        return {"uri": uri, "delimiter": self.delimiter, "encoding": encoding}


def read_folder(location: Location, given: Mapping[str, str] | None = None) -> Folder:
    """Read every table in the folder `location`, or the table that it is; no folders in it.

    given: our columns by those of the files that they are, as far as the user has said it.

    Raises StorageNotFoundError if it is not there, DataError if it holds no table or one that
    cannot be read, and another StorageError if it must not be read.
    """
    is_file = location.is_file()
    names = [location.name] if is_file else _names_in(location)
    tables = [name for name in names if name.lower().endswith(TABLE_ENDINGS)]
    _check_number(location, tables, names)
    where = location.uri.rpartition("/")[0] if is_file else location
    contents = {name: (location if is_file else location / name).read_bytes() for name in tables}
    texts = {name: _text(name, data) for name, data in contents.items()}
    delimiter = _delimiter(texts)
    files = tuple(
        _read(f"{where}/{name}", name, contents[name], delimiter, given or {}) for name in tables
    )
    others = tuple(name for name in names if name not in contents)
    foreign = {name: lines for name, text in texts.items() if (lines := _foreign_lines(text))}
    return Folder(location, files, contents, others, delimiter, foreign)


def _names_in(location: Location) -> list[str]:
    names = [name for name in location.files() if "/" not in name and name[0] not in "._"]
    if not names and not location.exists():
        raise StorageNotFoundError(
            f"{location}: there is no such file or folder; check --from",
            code="missing_file",
            key="--from",
            saw=location.uri,
        )
    return names


def _check_number(location: Location, tables: Sequence[str], names: Sequence[str]) -> None:
    if not tables:
        raise DataError(
            f"{location}: no file that xrec can read; expected files that end in "
            f"{', '.join(TABLE_ENDINGS)}, saw {', '.join(names[:_SHOWN]) or 'no files'}",
            code="no_table_file",
            key="--from",
            saw=tuple(names[:_SHOWN]),
        )
    if len(tables) > _MAX_FILES:
        raise DataError(
            f"{location}: {len(tables)} files, expected one for each table, {_MAX_FILES} at most; "
            "put the tables into a folder of their own, each as one file",
            code="too_many_files",
            key="--from",
            saw=len(tables),
        )


def _delimiter(texts: Mapping[str, bytes]) -> str:
    """What separates the columns of the CSV files, gzipped ones too: all must have the same.

    It is what stands most often in a header; a file with a single column has none.
    """
    found: dict[str, list[str]] = {}
    for name, text in texts.items():
        if name.lower().endswith((".csv", ".csv.gz")) and b"\0" not in text[:_HEAD_BYTES]:
            header = text.partition(b"\n")[0].decode("utf-8-sig", errors="replace")
            best = max(get_args(Delimiter), key=header.count)
            if best in header:
                found.setdefault(best, []).append(name)
    if len(found) > 1:
        shown = "; ".join(f"{delimiter!r} in {', '.join(of)}" for delimiter, of in found.items())
        raise DataError(
            f"the columns of the CSV files are separated by {shown}; expected one delimiter in "
            "all, which source.delimiter names; convert the others, or move those that are not "
            "needed out of the folder",
            code="several_delimiters",
            saw=tuple(found),
        )
    return next(iter(found), ",")


def _text(name: str, data: bytes) -> bytes:
    """A file's text; empty of Parquet, and of what cannot be read, which reading the file tells."""
    if name.lower().endswith(".parquet"):
        return b""
    try:
        return gzip.decompress(data) if name.lower().endswith(".gz") else data
    except (OSError, EOFError, zlib.error):
        return b""


def _foreign_lines(text: bytes) -> list[str]:
    """The lines that are not UTF-8, in the encoding in which they are read."""
    lines = (line.decode("utf-8", "surrogateescape") for line in text.splitlines())
    return [read for line in lines if (read := decoded(line, _ENCODING)) != line]


def _read(where: str, name: str, data: bytes, delimiter: str, given: Mapping[str, str]) -> File:
    if not data:
        raise DataError(
            f"{where}: an empty file; fill it, or move it out of the folder",
            code="empty_file",
            key=name,
        )
    if not name.lower().endswith((".parquet", ".gz")) and b"\0" in data[:_HEAD_BYTES]:
        raise DataError(
            f"{where}: binary content, expected text; is its ending right, or is it in UTF-16? "
            "Convert it, or move it out of the folder",
            code="binary_file",
            key=name,
        )
    columns, lines = stream_lines(where, io.BytesIO(data), delimiter, _ENCODING)
    rows = list(lines)
    readable = [row.values for row in rows if row.values is not None]
    if not readable:
        problem = rows[0].problem if rows else "it has no rows"
        if data.lstrip().startswith(b"[") and ".json" in name.lower():
            problem = "a JSON array, expected an object a line: jq -c '.[]' converts it"
        raise DataError(
            f"{where}: no row can be read ({problem}); fix it, or move it out of the folder",
            code="no_readable_row",
            key=name,
            saw=problem,
        )
    names = [each for each in columns or keys_of(rows) if each]
    _check_utf8(where, names)
    usable = [each for each in names if not _is_nested(each, readable)]
    return File(name, len(rows), tuple(_column(each, readable, given.get(each)) for each in usable))


def _check_utf8(where: str, names: Sequence[str]) -> None:
    """Raise DataError for a column whose name no project file can hold."""
    for name in names:
        try:
            name.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where}: the name of the column {name!a} is valid neither as UTF-8 nor as "
                f"{_ENCODING}; save the file as UTF-8",
                code="column_not_utf8",
                key=where,
            ) from error


def _is_nested(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """True for a column with objects, or lists of lists or objects: no column of ours is such."""
    values = (row.get(name) for row in rows)
    return any(
        isinstance(value, dict)
        or (isinstance(value, list) and any(isinstance(part, list | dict) for part in value))
        for value in values
    )


def _column(name: str, rows: Sequence[Mapping[str, Any]], ours: str | None) -> Column:
    cells = Counter(str(value) for row in rows if (value := row.get(name)) not in (None, ""))
    return Column(name, cells, len(rows) - cells.total(), ours)


def likeliest(columns: Iterable[Column], meaning: words.Meaning) -> Column | None:
    """The column whose name is likeliest to have that meaning, or None; what is given is first."""
    ranked = [
        (column.ours is None, rank, column)
        for column in columns
        if (rank := words.rank(column.known_as, meaning)) is not None
    ]
    return min(ranked, key=lambda each: each[:2])[2] if ranked else None
