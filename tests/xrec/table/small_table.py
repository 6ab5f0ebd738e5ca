"""A small table for tests: its format, files of it, its rows, and a way to make it older."""

import os
from collections.abc import Iterable
from datetime import timedelta

import pyarrow as pa

from xrec.storage import Location
from xrec.table import DataFile, Snapshot, Table, TableFormat, Writer, write_file

FORMAT = TableFormat(
    pa.schema(
        [
            pa.field("status", pa.string(), nullable=False),
            pa.field("bucket", pa.int32(), nullable=False, metadata={"comment": "hash of user"}),
            pa.field("user", pa.string(), nullable=False),
            pa.field("score", pa.float64()),
        ]
    ),
    partition_by=("status",),
    statistics=("bucket",),
)


def rows_of(bucket: int, *users: str) -> pa.Table:
    """Rows without their status; the score of a row is its number."""
    return pa.table(
        {
            "bucket": pa.array([bucket] * len(users), pa.int32()),
            "user": list(users),
            "score": [float(number) for number in range(len(users))],
        }
    )


def file_of(table: Table | Writer, bucket: int, *users: str, status: str = "ok") -> DataFile:
    """Write a file of rows that no commit has added yet."""
    rows = rows_of(bucket, *users)
    return write_file(
        table.location, FORMAT, rows, name=f"part-{bucket}", partition={"status": status}
    )


def users_of(snapshot: Snapshot) -> list[str]:
    """The users of all rows, sorted; a row that is there twice is there twice."""
    return sorted(snapshot.dataset().to_table(columns=["user"])["user"].to_pylist())


def paths_of(snapshot: Snapshot) -> set[str]:
    """The paths of the snapshot's files."""
    return set(snapshot.files()["path"].to_pylist())


def data_files(location: Location) -> set[str]:
    """The data files that are in the store, whether the table has them or not."""
    return {name for name in location.files() if name.startswith("status=")}


def make_older(location: Location, by: timedelta, names: Iterable[str] | None = None) -> None:
    """Move the times of files on a disk into the past, of the log's entries too."""
    for name in location.files() if names is None else names:
        path = os.path.join(location.path, name)
        moment = os.stat(path).st_mtime - by.total_seconds()
        os.utime(path, (moment, moment))
