"""The reviews and items of a source, as far as their rows can be read.

A file is read many rows at a time. Personal data is removed here, so nothing that is written later
can hold it.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import joblib
import pyarrow as pa
import pyarrow.compute as pc

from xrec.annotate.cells import parse_review, parse_time, parse_votes, rating_parser
from xrec.config import REVIEW_COLUMNS, TABLE_ENDINGS, AnnotateConfig, ReviewsSource
from xrec.data.blocks import stream_lines
from xrec.data.lines import keys_of
from xrec.data.personal import REMOVED, remove_personal
from xrec.data.rows import (
    FileRows,
    Parser,
    parse_description,
    parse_id,
    read_rows,
    reject_duplicates,
    stream_rows,
)
from xrec.data.source import Finding
from xrec.data.tables import find_files
from xrec.errors import DataError
from xrec.schemas import ITEM_DETAILS
from xrec.storage import (
    Forgotten,
    Location,
    check_access,
    open_location,
    read_forgotten,
    storage_errors,
)

T = TypeVar("T")

_FEW_PARTS = 8  # of a MiB; a smaller file is done before other processes have started
_ADVICE = "name the file's own columns in source.columns ({review: <column>}), or rename them"


@dataclass(frozen=True)
class RawReviews:
    """What could be read.

    reviews: user_id, item_id, review, summary (strings), rating, time, helpful (float64, null where
        they are missing), line. items: item_id, title, details (strings); ids are unique.
    titles: of items, in the reviews' rows: the first of each. findings: rows that cannot be used;
    num_rows: of each file, those included.
    num_personal: places with personal data, which were removed, by kind.
    num_forgotten: reviews of forgotten users, which are left out; no finding has a text then.
    """

    reviews: pa.Table
    items: pa.Table
    titles: Mapping[str, str]
    findings: tuple[Finding, ...]
    num_rows: Mapping[str, int]
    num_personal: Mapping[str, int]
    num_forgotten: int = 0


def read_reviews(config: AnnotateConfig, files: Mapping[str, Location]) -> RawReviews:
    """Read the files.

    Raises DataError for a missing column, or a file that as a whole cannot be read; StorageError.
    """
    num_personal: Counter[str] = Counter()
    blocks: list[pa.Table] = []
    findings: list[Finding] = []
    num_rows: Counter[str] = Counter()
    titles: dict[str, str] = {}
    forgotten, num_forgotten = read_forgotten(config), 0
    parts = _stream_reviews(config, files["reviews"])
    for part, num_left_out, found in _in_processes(partial(_impersonal, forgotten), parts):
        num_forgotten += num_left_out
        num_personal += found
        blocks.append(part.table.select(_RAW.names).cast(_RAW))
        for item_id, title in zip(*(part.table[name].to_pylist() for name in _TITLED), strict=True):
            if title:
                titles.setdefault(item_id, title)
        findings += part.findings
        num_rows[part.file] += part.num_rows
    items = ITEM_DETAILS.empty_table()
    if "items" in files:
        read = _read_items(config, files["items"])
        items, found = _without_personal(read.table, ("details",), mark="")
        num_personal += found
        findings += read.findings
        num_rows[read.file] += read.num_rows
    reviews = pa.concat_tables([_RAW.empty_table(), *blocks])
    items = items.cast(ITEM_DETAILS)
    findings = forgotten.without_texts(findings)
    counts = num_rows, num_personal, num_forgotten
    return RawReviews(reviews, items, titles, tuple(findings), *counts)


_TITLED = ("item_id", "item_title")
_RAW = pa.schema(
    [
        *((name, pa.string()) for name in ("user_id", "item_id", "review", "summary")),
        *((name, pa.float64()) for name in ("rating", "time", "helpful")),
        ("line", pa.int64()),
    ]
)


def _stream_reviews(config: AnnotateConfig, location: Location) -> Iterator[FileRows]:
    columns = {"user_id": parse_id, "item_id": parse_id, "review": parse_review}
    optional: dict[str, Parser] = {
        "summary": parse_review,
        "rating": rating_parser(*config.rating_range),
        "time": parse_time,
        "helpful": parse_votes,
        "item_title": parse_description,
    }
    with storage_errors(location.uri), location.fs.open(location.path, "rb") as opened:
        given = {"names": config.source.names_in("reviews"), **config.source.format}
        yield from stream_rows(location.name, opened, columns, optional, **given, advice=_ADVICE)


def _read_items(config: AnnotateConfig, location: Location) -> FileRows:
    source, names = config.source, config.source.names_in("items")
    is_named = "details" in names
    if not is_named:
        names["details"] = _other_columns(location, names, source)
    with storage_errors(location.uri), location.fs.open(location.path, "rb") as opened:
        whole = read_rows(
            location.name,
            opened,
            {"item_id": parse_id},
            dict.fromkeys(("title", "details"), parse_description),
            names=names,
            **source.format,
            advice=_ADVICE,
            may_be_missing=() if is_named else ("details",),
        )
    unique = reject_duplicates(whole, ["item_id"])
    texts = {name: pc.fill_null(unique.table[name], "") for name in ITEM_DETAILS.names}
    return replace(unique, table=pa.table(texts))


def _other_columns(
    location: Location, names: Mapping[str, tuple[str, ...]], source: ReviewsSource
) -> tuple[str, ...]:
    """All columns of the items but id and title."""
    taken = {*names.get("item_id", ("item_id",)), *names.get("title", ("title",))}
    with storage_errors(location.uri), location.fs.open(location.path, "rb") as opened:
        columns, lines = stream_lines(location.name, opened, **source.format)
        there = columns or keys_of(itertools.islice(lines, 1000))
    return tuple(name for name in there if name not in taken)


def _with_column(rows: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return rows.set_column(rows.schema.get_field_index(name), name, values)


def _in_processes(do: Callable[[FileRows], T], parts: Iterator[FileRows]) -> Iterator[T]:
    """Yield `do` of each part, in order; of all but the first few on all cores of this machine."""
    yield from map(do, itertools.islice(parts, _FEW_PARTS))
    if (one := next(parts, None)) is not None:
        parallel = joblib.Parallel(n_jobs=-1, return_as="generator", pre_dispatch="2*n_jobs")
        yield from parallel(joblib.delayed(do)(part) for part in itertools.chain([one], parts))


def _impersonal(forgotten: Forgotten, part: FileRows) -> tuple[FileRows, int, Counter[str]]:
    """The part without rows of forgotten people, how many they were, and without personal data.

    Then how many places had some, by kind.
    """
    table = forgotten.without(part.table)
    rows = _with_column(table, "summary", pc.fill_null(table["summary"], ""))
    rows, found = _without_personal(rows, ("review", "summary"))
    return replace(part, table=rows), part.table.num_rows - rows.num_rows, found


def _without_personal(
    rows: pa.Table, columns: tuple[str, ...], mark: str = REMOVED
) -> tuple[pa.Table, Counter[str]]:
    num_personal: Counter[str] = Counter()
    for name in columns:
        texts = []
        for text in rows[name].to_pylist():
            cleaned, found = remove_personal(text, mark)
            texts.append(cleaned)
            num_personal.update(found)
        rows = _with_column(rows, name, pa.array(texts, pa.string()))
    return rows, num_personal


def find_review_files(config: AnnotateConfig) -> dict[str, Location]:
    """The files of the source, by table.

    Raises StorageError if the source cannot be used, DataError if there is no file of reviews.
    """
    source = config.source
    place = open_location(source.uri, config.storage)
    check_access(place, config.storage)
    if place.is_file():
        if source.files:
            raise DataError(
                f"{place} is a file, and source.files names {', '.join(source.files.values())}; "
                "let source.uri be their folder, or leave files out",
                code="file_in_a_file",
                key="source.files",
                saw=dict(source.files),
            )
        if not place.name.lower().endswith(TABLE_ENDINGS):
            raise DataError(
                f"{place}: expected a file that ends in one of {', '.join(TABLE_ENDINGS)}",
                code="unknown_format",
                key="source.uri",
                saw=place.name,
            )
        return {"reviews": place}
    if not place.exists():
        raise DataError(
            f"{place}: there is nothing; check source.uri",
            code="missing_file",
            key="source.uri",
            saw=source.uri,
        )
    found = find_files(place, tuple(REVIEW_COLUMNS), source.files, "reviews")
    for table, files in found.items():
        if len(files) > 1:
            raise DataError(
                f"{place}: {len(files)} files of the {table}, the first {next(iter(files))}; "
                "expected one: join them, or name it in source.files",
                code="several_files",
                key=f"source.files.{table}",
                saw=tuple(files),
            )
    return {table: location for table, files in found.items() for location in files.values()}


def file_hashes(files: Mapping[str, Location]) -> dict[str, str]:
    """16 hex digits of a hash of each file's content, by table; the files are read for it."""
    return {table: location.digest() for table, location in files.items()}
