"""Reads the reviews and items of a source.

Files are read in blocks of rows. Personal data is removed here, so nothing that is written later
contains any.
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
from xrec.data import (
    FileRows,
    Finding,
    Parser,
    find_files,
    joined_rows,
    parse_description,
    parse_id,
    read_blocks,
    reject_duplicates,
    stream_rows,
)
from xrec.data.language import REMOVED, remove_personal
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

_FEW_BLOCKS = 8  # of one MiB; a smaller file is finished before other processes would start
_ADVICE = "name the file's own columns in source.columns ({review: <column>}), or rename them"
_RAW = pa.schema(
    [
        *((name, pa.string()) for name in ("user_id", "item_id", "review", "summary")),
        *((name, pa.float64()) for name in ("rating", "time", "helpful")),
        ("line", pa.int64()),
    ]
)


@dataclass(frozen=True)
class RawReviews:
    """The usable rows of a source.

    reviews: user_id, item_id, review, summary (strings), rating, time, helpful (float64 or null),
        line. items: item_id, title, details (strings); ids are unique.
    titles: the first title of each item in the reviews' rows. findings: unusable rows. num_rows:
        the number of rows of each file, including unusable ones.
    num_personal: the number of removed pieces of personal data, by kind. num_forgotten: the number
        of reviews dropped because their users are forgotten.
    """

    reviews: pa.Table
    items: pa.Table
    titles: Mapping[str, str]
    findings: tuple[Finding, ...]
    num_rows: Mapping[str, int]
    num_personal: Mapping[str, int]
    num_forgotten: int = 0


def read_reviews(config: AnnotateConfig, files: Mapping[str, Location]) -> RawReviews:
    """Read the files of a source.

    Raises DataError for a missing column or an unreadable file, and StorageError.
    """
    num_personal, num_rows, num_forgotten = Counter[str](), Counter[str](), 0
    blocks, findings, titles = [_RAW.empty_table()], list[Finding](), dict[str, str]()
    forgotten = read_forgotten(config)
    stream = _stream_reviews(config, files["reviews"])
    for block, num_dropped, removed in _in_processes(partial(_anonymize, forgotten), stream):
        num_forgotten += num_dropped
        num_personal += removed
        blocks.append(block.table.select(_RAW.names).cast(_RAW))
        columns = (block.table[name].to_pylist() for name in ("item_id", "item_title"))
        for item_id, title in zip(*columns, strict=True):
            if title:
                titles.setdefault(item_id, title)
        findings += block.findings
        num_rows[block.file] += block.num_rows + num_dropped
    items = ITEM_DETAILS.empty_table()
    if "items" in files:
        rows = _read_items(config, files["items"])
        items, removed = _without_personal(rows.table, ("details",), mark="")
        num_personal += removed
        findings += rows.findings
        num_rows[rows.file] += rows.num_rows
    reviews, known = pa.concat_tables(blocks), tuple(forgotten.without_texts(findings))
    items = items.cast(ITEM_DETAILS)
    return RawReviews(reviews, items, titles, known, num_rows, num_personal, num_forgotten)


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
    """Read the items; without a `details` column, the details of a row are its other columns."""
    source, names = config.source, config.source.names_in("items")
    has_details = "details" in names
    if not has_details:
        names["details"] = _other_columns(location, names, source)
    with storage_errors(location.uri), location.fs.open(location.path, "rb") as opened:
        parts = stream_rows(
            location.name,
            opened,
            {"item_id": parse_id},
            dict.fromkeys(("title", "details"), parse_description),
            names=names,
            **source.format,
            advice=_ADVICE,
            may_be_missing=() if has_details else ("details",),
        )
        whole = joined_rows(parts)
    unique = reject_duplicates(whole, ["item_id"])
    texts = {name: pc.fill_null(unique.table[name], "") for name in ITEM_DETAILS.names}
    return replace(unique, table=pa.table(texts))


def _other_columns(
    location: Location, names: Mapping[str, tuple[str, ...]], source: ReviewsSource
) -> tuple[str, ...]:
    taken = {*names.get("item_id", ("item_id",)), *names.get("title", ("title",))}
    with storage_errors(location.uri), location.fs.open(location.path, "rb") as opened:
        columns, _ = read_blocks(location.name, opened, **source.format)
    return tuple(name for name in columns or () if name not in taken)


def _in_processes(do: Callable[[FileRows], T], blocks: Iterator[FileRows]) -> Iterator[T]:
    """Yield the result of `do` for each block, in order; use all cores after a few blocks."""
    yield from map(do, itertools.islice(blocks, _FEW_BLOCKS))
    if (first := next(blocks, None)) is not None:
        parallel = joblib.Parallel(n_jobs=-1, return_as="generator", pre_dispatch="2*n_jobs")
        yield from parallel(joblib.delayed(do)(block) for block in itertools.chain([first], blocks))


def _anonymize(forgotten: Forgotten, block: FileRows) -> tuple[FileRows, int, Counter[str]]:
    """Drop rows of forgotten users and remove personal data; also return both counts."""
    table = forgotten.without(block.table)
    rows = _with_column(table, "summary", pc.fill_null(table["summary"], ""))
    rows, removed = _without_personal(rows, ("review", "summary"))
    return replace(block, table=rows), block.table.num_rows - rows.num_rows, removed


def _without_personal(
    rows: pa.Table, columns: tuple[str, ...], mark: str = REMOVED
) -> tuple[pa.Table, Counter[str]]:
    num_removed: Counter[str] = Counter()
    for name in columns:
        cleaned = [remove_personal(text, mark) for text in rows[name].to_pylist()]
        num_removed += sum((removed for _, removed in cleaned), Counter())
        rows = _with_column(rows, name, pa.array([text for text, _ in cleaned], pa.string()))
    return rows, num_removed


def _with_column(rows: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return rows.set_column(rows.schema.get_field_index(name), name, values)


def find_review_files(config: AnnotateConfig) -> dict[str, Location]:
    """Return the files of the source, by table.

    Raises StorageError if the source cannot be accessed, DataError if it has no reviews file.
    """
    source = config.source
    location = open_location(source.uri, config.storage)
    check_access(location, config.storage)
    if location.is_file():
        return {"reviews": _check_file(location, source)}
    found = find_files(location, tuple(REVIEW_COLUMNS), source.files, ("reviews",))
    for table, files in found.items():
        if len(files) > 1:
            raise DataError(
                f"{location} has {len(files)} files of {table}, expected one; join them, or choose "
                f"one in source.files, such as {next(iter(files))}",
                code="several_files",
                key=f"source.files.{table}",
                saw=tuple(files),
            )
    return {table: location for table, files in found.items() for location in files.values()}


def _check_file(location: Location, source: ReviewsSource) -> Location:
    if source.files:
        raise DataError(
            f"source.uri {location} is a file, but source.files names "
            f"{', '.join(source.files.values())}; set source.uri to their folder, or remove files",
            code="file_in_a_file",
            key="source.files",
            saw=dict(source.files),
        )
    if not location.name.lower().endswith(TABLE_ENDINGS):
        raise DataError(
            f"source.uri {location}: expected a file that ends in {', '.join(TABLE_ENDINGS)}",
            code="unknown_format",
            key="source.uri",
            saw=location.name,
        )
    return location


def file_hashes(files: Mapping[str, Location]) -> dict[str, str]:
    """Return the hash of each file, by table, as 16 hex digits; this reads the files."""
    return {table: location.digest() for table, location in files.items()}
