"""The rows and columns of a user's files, as the jobs will read them."""

import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from xrec.annotate import parse_number, parse_time
from xrec.config import TABLE_ENDINGS, Delimiter
from xrec.data import MISSING, read_blocks
from xrec.errors import DataError, StorageNotFoundError
from xrec.init import names
from xrec.storage import Location

ENCODING = "cp1252"  # for lines that are not UTF-8: the Windows encoding, which covers Latin-1
_MOST_BAD = 0.05  # largest share of invalid cells in a column that is still used
_PARSERS: Mapping[str, Callable[[object], Any]] = {"rating": parse_number, "time": parse_time}


@dataclass(frozen=True, eq=False)
class Column:
    """A column of a file.

    known_as: the name from which its meaning is guessed: its own, or the xrec column that the user
    mapped it to (`is_given`). counts: how often each value occurs, as text; empty cells do not
    count.
    """

    name: str
    known_as: str
    is_given: bool
    counts: Counter[str]

    @property
    def mean_words(self) -> float:
        """The mean number of words per non-empty cell."""
        num_words = sum(len(value.split()) * count for value, count in self.counts.items())
        return num_words / max(1, self.counts.total())

    @property
    def is_number(self) -> bool:
        """Whether nearly all values are numbers."""
        return self.is_mostly("rating")

    @property
    def is_key(self) -> bool:
        """Whether nearly all values differ."""
        return 0 < 0.98 * self.counts.total() <= len(self.counts)

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


def likeliest(columns: Iterable[Column], meaning: names.Meaning) -> Column | None:
    """Return the column whose name best fits the meaning; columns that the user mapped go first."""
    ranked = [(not each.is_given, names.rank(each.known_as, meaning), each) for each in columns]
    fitting = [each for each in ranked if each[1] is not None]
    return min(fitting, key=lambda each: each[:2])[2] if fitting else None


@dataclass(frozen=True)
class File:
    """A file with a table. table: the one that its name suggests, if any."""

    name: str
    table: str | None
    num_rows: int
    columns: tuple[Column, ...]

    def column(self, name: object) -> Column | None:
        """Return the column of this name, if there is one."""
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True)
class Folder:
    """The tables of a folder; `others` are files that xrec cannot read.

    foreign: a word of each file with lines that are not UTF-8.
    """

    location: Location
    files: tuple[File, ...]
    others: tuple[str, ...]
    delimiter: str
    foreign: Mapping[str, str]

    def seen_columns(self) -> str:
        """Return one line per file, which lists its columns."""
        shown = ((file.name, (column.name for column in file.columns)) for file in self.files)
        return "\n".join(f"  {name}: {', '.join(columns)}" for name, columns in shown)


def read_folder(location: Location, given: Mapping[str, str]) -> Folder:
    """Read every table in the folder `location`, without subfolders, or the single file `location`.

    given: the user's mapping from columns of the files to columns of xrec.

    Raises StorageNotFoundError if it does not exist, DataError if it contains no table, or if a
    table is empty or cannot be read.
    """
    found = [name for name in location.files() if "/" not in name and name[0] not in "._"]
    if not found and not location.exists():
        raise StorageNotFoundError(
            f"{location}: no such file or folder; check --from",
            code="missing_file",
            key="--from",
            saw=location.uri,
        )
    if location.is_file():
        found = [location.name]
    tables = [name for name in found if name.lower().endswith(TABLE_ENDINGS)]
    if not tables:
        raise DataError(
            f"{location}: no file that xrec can read; expected files that end with "
            f"{', '.join(TABLE_ENDINGS)}, saw {', '.join(found[:10]) or 'no files'}",
            code="no_table_file",
            key="--from",
            saw=tuple(found[:10]),
        )
    is_file = location.is_file()
    contents = {name: _content(location if is_file else location / name) for name in tables}
    delimiter = _delimiter(contents)
    files = tuple(_read(name, data, delimiter, given) for name, data in contents.items())
    others = tuple(name for name in found if name not in tables)
    foreign = {name: word for name, data in contents.items() if (word := _foreign_word(name, data))}
    return Folder(location, files, others, delimiter, foreign)


def _content(location: Location) -> bytes:
    """Return the unpacked content of a file; raise DataError if it is empty, cut or binary."""
    data, name, problem, code = location.read_bytes(), location.name.lower(), "", "broken_file"
    if name.endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            problem = f"not a complete gzip file ({error})"
    if not data:
        problem, code = "an empty file", "empty_file"
    elif not problem and b"\0" in data[:65536] and not name.endswith(".parquet"):
        problem, code = "binary content, expected text (in UTF-8, not UTF-16)", "binary_file"
    elif ".json" in name and data.lstrip().startswith(b"["):
        problem, code = "a JSON array; jq -c '.[]' turns it into JSON lines", "no_readable_row"
    if problem:
        message = f"{location}: {problem}; fix it, or move it out of the folder"
        raise DataError(message, code=code, key=location.name)
    return data


def _foreign_word(name: str, data: bytes) -> str:
    """Return the first word of a text that is not UTF-8, or "" if there is none."""
    try:
        if not name.lower().endswith(".parquet"):
            data.decode()
    except UnicodeDecodeError as error:
        around = data[max(0, error.start - 50) : error.start + 50].decode(ENCODING, "replace")
        letter = data[error.start : error.start + 1].decode(ENCODING, "replace")
        return str(re.findall(rf"\w*{re.escape(letter)}\w*", around)[0])
    return ""


def _delimiter(contents: Mapping[str, bytes]) -> str:
    """Return the delimiter of the CSV files: the one that is most frequent in their headers."""
    found: dict[str, list[str]] = {}
    for name, data in contents.items():
        header = data.partition(b"\n")[0].decode("utf-8", errors="replace")
        best = max(get_args(Delimiter), key=header.count)
        if ".csv" in name.lower() and best in header:  # a single column has no delimiter
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


def _read(name: str, data: bytes, delimiter: str, given: Mapping[str, str]) -> File:
    """Count the values of each column, except objects; raise DataError if no row can be read."""
    unpacked = name[:-3] if name.lower().endswith(".gz") else name
    columns, blocks = read_blocks(unpacked, io.BytesIO(data), (), delimiter, ENCODING)
    num_rows, counts = 0, {column: Counter[str]() for column in columns or () if column}
    for block in blocks:
        num_rows += len(block.numbers)
        for column in list(counts):
            cells = [cell for cell in block.cells(column) if cell not in (None, "", MISSING)]
            if any(map(_is_object, cells)):
                del counts[column]
            else:
                counts[column].update(map(str, cells))
    if not num_rows:
        raise DataError(
            f"{name}: no row can be read; fix it, or move it out of the folder",
            code="no_readable_row",
            key=name,
        )
    read = (Column(own, given.get(own, own), own in given, each) for own, each in counts.items())
    return File(name, names.table_of(name), num_rows, tuple(read))


def _is_object(cell: object) -> bool:
    """Return whether a cell is an object, or a list of objects or lists."""
    parts = cell if isinstance(cell, list | tuple) else ()
    return isinstance(cell, dict) or any(isinstance(part, dict | list | tuple) for part in parts)
