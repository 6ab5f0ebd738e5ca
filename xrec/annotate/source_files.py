"""The files of a source: where they are, and hashes of them."""

import hashlib
from collections.abc import Mapping

from xrec.config.annotate import REVIEW_COLUMNS, AnnotateConfig
from xrec.config.data import TABLE_ENDINGS
from xrec.data.tables import find_files
from xrec.errors import DataError
from xrec.storage import Location, check_access, open_location, storage_errors


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
                "let source.uri be their folder, or leave files out"
            )
        _check_ending(place)
        return {"reviews": place}
    if not place.exists():
        raise DataError(f"{place}: there is nothing; check source.uri")
    return find_files(place, tuple(REVIEW_COLUMNS), source.files, "reviews")


def file_hashes(files: Mapping[str, Location]) -> dict[str, str]:
    """16 hex digits of a hash of each file's content, by table; the files are read for it."""
    return {table: _hash(location) for table, location in files.items()}


def _check_ending(location: Location) -> None:
    if not location.name.lower().endswith(TABLE_ENDINGS):
        raise DataError(
            f"{location}: expected a file that ends in one of {', '.join(TABLE_ENDINGS)}"
        )


def _hash(location: Location) -> str:
    with storage_errors(location.uri), location.fs.open(location.path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:16]
