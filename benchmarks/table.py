"""What commits to a table and opening it cost, beside deltalake's own ways, by the size of a table.

    python -m benchmarks.table [--files 16384] [--batch 64] [--output workspace/benchmarks/table]

Every contestant ends up with the same rows in a table of its own, in batches. In every batch the
files of xrec and `create_write_transaction` are written before the clock starts: what is measured
is the commit alone. A line of the result is a power of two of files; its milliseconds are the
median of the commits since the line before, and `ratio` is that of xrec to the contestant.

| contestant | what it is |
|---|---|
| `xrec` | `Writer.commit`: looks at every file's footer, creates the next entry of the log |
| `transaction` | `create_write_transaction`, then `update_incremental`; looks at no file |
| `append` | `write_deltalake(mode="append")` of the batch's rows: one file a batch |
"""

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
from deltalake.transaction import AddAction, RemoveAction

from xrec.config.shared import StorageConfig
from xrec.storage import open_location
from xrec.table import DataFile, Table, TableFormat, write_file

FORMAT = TableFormat(
    pa.schema(
        [
            pa.field("status", pa.string(), nullable=False),
            pa.field("bucket", pa.int32(), nullable=False),
            pa.field("user", pa.string(), nullable=False),
        ]
    ),
    partition_by=("status",),
    statistics=("bucket",),
)
PARTITION = {"status": "ok"}
Commit = Callable[[Sequence[int], Sequence[DataFile]], None]


def rows_of(bucket: int) -> pa.Table:
    """Four rows of one bucket."""
    return pa.table(
        {
            "bucket": pa.array([bucket] * 4, pa.int32()),
            "user": [f"user-{bucket}-{number}" for number in range(4)],
        }
    )


def xrec_commits(uri: str) -> Commit:
    """A table of xrec; returns the function that commits files to it."""
    writer = Table.create(uri, FORMAT, run="benchmark").take_over("benchmark")

    def commit(buckets: Sequence[int], files: Sequence[DataFile]) -> None:
        writer.commit(files)

    return commit


def transaction_commits(uri: str) -> Commit:
    """A plain Delta table; returns the function that commits files by deltalake's transaction."""
    delta = _plain_table(uri)

    def commit(buckets: Sequence[int], files: Sequence[DataFile]) -> None:
        actions: list[AddAction | RemoveAction] = [
            AddAction(file.path, file.num_bytes, file.partition, 0, True, _statistics(bucket))
            for bucket, file in zip(buckets, files, strict=True)
        ]
        delta.create_write_transaction(
            actions,
            "append",
            FORMAT.schema,
            partition_by=["status"],
            commit_properties=deltalake.CommitProperties(max_commit_retries=0),
        )
        delta.update_incremental()

    return commit


def append_commits(uri: str) -> Commit:
    """A plain Delta table; returns the function that appends rows to it."""
    delta = _plain_table(uri)

    def commit(buckets: Sequence[int], files: Sequence[DataFile]) -> None:
        rows = pa.concat_tables(map(rows_of, buckets))
        rows = rows.append_column("status", pa.array(["ok"] * rows.num_rows))
        deltalake.write_deltalake(delta, rows.select(FORMAT.schema.names), mode="append")

    return commit


CONTESTANTS = {
    "xrec": xrec_commits,
    "transaction": transaction_commits,
    "append": append_commits,
}


def measure(folder: Path, num_files: int, batch: int) -> list[dict[str, Any]]:
    """Rows of the result: milliseconds a commit and an opening, for each contestant and size."""
    names = {name: str(folder / name) for name in CONTESTANTS}
    commits = {name: contestant(names[name]) for name, contestant in CONTESTANTS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    results: list[dict[str, Any]] = []
    for start in range(0, num_files, batch):
        buckets = range(start, start + batch)
        for name, commit in commits.items():
            files = [] if name == "append" else _write_files(names[name], buckets)
            began = time.perf_counter()
            commit(buckets, files)
            seconds[name].append(time.perf_counter() - began)
        size = start + batch
        if size & (size - 1) == 0 and size >= 1024:
            results += _lines(names, seconds, size)
            seconds = {name: [] for name in CONTESTANTS}
    return results


def _lines(
    uris: dict[str, str], seconds: dict[str, list[float]], size: int
) -> Iterator[dict[str, Any]]:
    ours = statistics.median(seconds["xrec"])
    for name, all_seconds in seconds.items():
        began = time.perf_counter()
        if name == "xrec":
            num_rows = Table.open(uris[name]).snapshot().rows
        else:
            num_rows = deltalake.DeltaTable(uris[name]).count()
        opened = time.perf_counter() - began
        assert num_rows == 4 * size, (name, num_rows)
        median = statistics.median(all_seconds)
        line = {
            "files": size,
            "contestant": name,
            "commit_ms": round(1000 * median, 1),
            "ratio": round(ours / median, 2),
            "open_and_count_ms": round(1000 * opened, 1),
        }
        print(json.dumps(line), flush=True)  # noqa: T201
        yield line


def _plain_table(uri: str) -> deltalake.DeltaTable:
    return deltalake.DeltaTable.create(
        uri,
        FORMAT.schema,
        partition_by=["status"],
        configuration={"delta.dataSkippingStatsColumns": "bucket"},
    )


def _write_files(uri: str, buckets: Sequence[int]) -> list[DataFile]:
    location = open_location(uri, StorageConfig())
    return [
        write_file(location, FORMAT, rows_of(bucket), name=f"part-{bucket}", partition=PARTITION)
        for bucket in buckets
    ]


def _statistics(bucket: int) -> str:
    return json.dumps(
        {
            "numRecords": 4,
            "minValues": {"bucket": bucket},
            "maxValues": {"bucket": bucket},
            "nullCount": {"bucket": 0},
        }
    )


def main() -> None:
    """Measure, print and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=2**14, help="files of the largest table")
    parser.add_argument("--batch", type=int, default=64, help="files a commit")
    parser.add_argument("--output", type=Path, default=Path("workspace/benchmarks/table"))
    arguments = parser.parse_args()
    folder = arguments.output / "tables"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    results = measure(folder.absolute(), arguments.files, arguments.batch)
    (arguments.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
