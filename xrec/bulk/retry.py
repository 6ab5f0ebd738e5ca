"""Which files a retry does: the failed files of the table.

A retry replaces each failed file by what becomes of its rows, in one commit. The files that it
writes have its number in their names, so a retry that goes on after an interruption knows which
failed files it has still to do.
"""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from xrec.bulk.row_format import FAILED, RowFormat
from xrec.bulk.work import Unit
from xrec.table import Snapshot


def check_reasons(format: RowFormat, reasons: Sequence[str]) -> tuple[str, ...]:
    """The reasons, sorted; raises ValueError for one for which no row can fail."""
    unknown = sorted(set(reasons) - set(format.all_reasons))
    if unknown or not reasons:
        raise ValueError(
            f"reasons {list(reasons)}: expected at least one, out of "
            f"{', '.join(format.all_reasons)}"
        )
    return tuple(sorted(set(reasons)))


def failed_files(snapshot: Snapshot, number: int) -> pa.Table:
    """The failed files that retry `number` has still to do, as `Snapshot.files` has them."""
    files = snapshot.files([("status", "=", FAILED)])
    is_done = pc.match_substring(files["path"], f"/{_prefix(number)}-")
    return files.filter(pc.invert(is_done))


def retry_units(files: pa.Table, number: int, reasons: tuple[str, ...]) -> Iterator[Unit]:
    """The units of failed files."""
    columns = (files["path"].to_pylist(), files["num_rows"].to_pylist())
    for path, num_rows in zip(*columns, strict=True):
        yield Unit(path, path, None, num_rows, _prefix(number), None, reasons)


def _prefix(number: int) -> str:
    """How the names of the files begin that a retry writes."""
    return f"retry-{number}"
