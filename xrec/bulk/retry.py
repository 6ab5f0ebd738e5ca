"""Which files a retry does: the failed files of the table.

A retry replaces each failed file by what becomes of its rows, in one commit. The files that it
writes have its number in their names, so a retry that goes on after an interruption knows which
failed files it has still to do.
"""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

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


def retry_units(snapshot: Snapshot, number: int, reasons: tuple[str, ...]) -> Iterator[Unit]:
    """The failed files that retry `number` has still to do."""
    prefix = f"retry-{number}"
    files = snapshot.files([("status", "=", FAILED)])
    for path, num_rows in zip(
        files["path"].to_pylist(), files["num_rows"].to_pylist(), strict=True
    ):
        if not PurePosixPath(path).name.startswith(f"{prefix}-"):
            yield Unit(path, path, None, num_rows, prefix, None, reasons)
