"""The files of a source: where they are, and hashes of them."""

import hashlib
from collections.abc import Mapping
from typing import Any

from xrec.config.annotate import AnnotateConfig, ReviewsSource, ReviewTable
from xrec.config.table_files import TABLE_ENDINGS
from xrec.errors import DataError
from xrec.storage import Location, check_access, open_location, storage_errors

_READ_BYTES = 2**20
_SHOWN = 10


def find_review_files(config: AnnotateConfig) -> dict[ReviewTable, Location]:
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
                "let source.uri be their folder, or leave files out"
            )
        _check_ending(place)
        return {"reviews": place}
    found: dict[ReviewTable, Location] = {}
    for table in ("reviews", "items"):
        if (location := _find(place, table, source)) is not None:
            found[table] = location
    if "reviews" not in found:
        names = place.files()
        if not names and not place.exists():
            raise DataError(f"{place}: there is nothing; check source.uri")
        raise DataError(
            f"{place}: the reviews are missing: expected a file reviews with one of the endings "
            f"{', '.join(TABLE_ENDINGS)}, saw {', '.join(names[:_SHOWN]) or 'no files'}; name the "
            "file in source.files ({reviews: <file>}), or in source.uri"
        )
    return found


def file_hashes(files: Mapping[ReviewTable, Location]) -> dict[str, str]:
    """16 hex digits of a hash of each file's content, by table; the files are read for it."""
    return {table: _hash(location) for table, location in files.items()}


def _find(folder: Location, table: ReviewTable, source: ReviewsSource) -> Location | None:
    """The file of a table: that of the config, else one with the table's name, else None."""
    if table in source.files:
        named = folder / source.files[table]
        if not named.is_file():
            raise DataError(
                f"{folder}: {source.files[table]} is missing (source.files.{table}); saw "
                f"{', '.join(folder.files()[:_SHOWN]) or 'no files'}"
            )
        return named
    names = [f"{table}{ending}" for ending in TABLE_ENDINGS]
    there = [name for name in names if (folder / name).is_file()]
    if len(there) > 1:
        raise DataError(
            f"{folder}: expected one file of {table}, saw {' and '.join(there)}; remove all but "
            f"one, or name it in source.files ({{{table}: <file>}})"
        )
    return folder / there[0] if there else None


def _check_ending(location: Location) -> None:
    if not location.name.lower().endswith(TABLE_ENDINGS):
        raise DataError(
            f"{location}: expected a file that ends in one of {', '.join(TABLE_ENDINGS)}"
        )


def _hash(location: Location) -> str:
    digest: Any = hashlib.sha256()
    with storage_errors(location.uri), location.fs.open(location.path, "rb") as opened:
        while data := opened.read(_READ_BYTES):
            digest.update(data)
    return str(digest.hexdigest()[:16])
