"""The files of a published table: written, as rows of `FILES`, and as Arrow datasets."""

import hashlib
import io
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs
import pyarrow.parquet as pq
from deltalake.fs import DeltaStorageHandler

from xrec.bulk.rows import bare
from xrec.errors import DataError
from xrec.storage import Location, read_footer, request_each, row_groups, storage_errors

FILES = pa.schema(
    [
        ("path", pa.string()),
        ("num_bytes", pa.int64()),
        ("num_rows", pa.int64()),
        ("min.bucket", pa.int32()),
        ("max.bucket", pa.int32()),
    ]
)
"""The columns that describe a version's files; files of other programs may have no bounds."""
FEW_AT_ONCE: Mapping[str, int] = {
    "batch_size": 2**14,
    "batch_readahead": 2,
    "fragment_readahead": 1,
}
"""Settings for streaming a dataset; by default Arrow reads 64 batches of 131,072 rows ahead."""
ROWS_PER_GROUP = 4096


def write_file(
    output: Location, schema: pa.Schema, tables: Iterable[pa.Table]
) -> Mapping[str, Any] | None:
    """Write sorted rows to a file of the table; return the file's row of `FILES`.

    Return None if there are no rows.
    """
    path, sink, buckets = f"part-{uuid.uuid4().hex}.parquet", io.BytesIO(), set[int]()
    num_rows, schema = 0, bare(schema.empty_table()).schema
    with pq.ParquetWriter(sink, schema, compression="zstd", write_page_index=True) as writer:
        for rows in row_groups((table for table in tables if table.num_rows), ROWS_PER_GROUP):
            writer.write_table(bare(rows))
            num_rows += rows.num_rows
            buckets |= {*pc.min_max(rows["bucket"]).as_py().values()}
    if not num_rows:
        return None
    (output / path).write_bytes(sink.getvalue())
    values = (path, sink.getbuffer().nbytes, num_rows, min(buckets), max(buckets))
    return dict(zip(FILES.names, values, strict=True))


def files_of(location: Location, files: pa.Table, schema: pa.Schema) -> pads.Dataset:
    """Return a dataset of files with the columns of `schema`; a filter by bucket skips files."""
    rows, bucket, bounds = files.to_pylist(), pc.field("bucket"), []
    sizes = {file["path"]: file["num_bytes"] for file in rows}
    for file in rows:
        least, greatest = file["min.bucket"], file["max.bucket"]
        is_known = least is not None and "bucket" in schema.names
        bounds.append((bucket >= least) & (bucket <= greatest) if is_known else pc.scalar(True))
    return pads.FileSystemDataset.from_paths(
        list(sizes),
        schema=schema,
        format=pads.ParquetFileFormat(),
        filesystem=_filesystem(location, sizes),
        partitions=bounds,
    )


def _filesystem(location: Location, sizes: dict[str, int]) -> pyarrow.fs.FileSystem:
    """Return a file system of the table's folder; deltalake's on S3, as fsspec reads far ahead."""
    options = location.delta_options()
    if options is None:
        return pyarrow.fs.SubTreeFileSystem(location.path, location.arrow_filesystem())
    return pyarrow.fs.PyFileSystem(DeltaStorageHandler(location.uri, options, sizes))


def missing_files(location: Location, files: pa.Table) -> list[str]:
    """Return the paths of files that do not exist or whose size is not `num_bytes`.

    A listing may be stale, as on NFS, so files that do not match it are looked up by name.
    """
    listed = location.sizes()
    unlisted = [
        file
        for file in files.select(["path", "num_bytes"]).to_pylist()
        if "/" not in file["path"] and listed.get(file["path"]) != file["num_bytes"]
    ]
    sizes = request_each(lambda file: (location / file["path"]).size(), unlisted)
    checked = zip(unlisted, sizes, strict=True)
    return [file["path"] for file, size in checked if size != file["num_bytes"]]


def wrong_bounds(location: Location, files: pa.Table) -> list[str]:
    """Return the paths of files that are unreadable or have buckets outside the log's bounds.

    Readers that look for such a bucket skip the file. This reads the footer of each file, which
    other programs also write correctly.
    """

    def is_wrong(file: Mapping[str, Any]) -> bool:
        least, greatest = file["min.bucket"], file["max.bucket"]
        try:
            footer = read_footer(location / file["path"])
        except (pa.ArrowException, OSError):
            return True
        groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
        columns = (group.column(index) for group in groups for index in range(group.num_columns))
        buckets = [column.statistics for column in columns if column.path_in_schema == "bucket"]
        known = [bounds for bounds in buckets if bounds is not None and bounds.has_min_max]
        return least is not None and any(
            bounds.min < least or bounds.max > greatest for bounds in known
        )

    own = [file for file in files.to_pylist() if "/" not in file["path"]]
    checked = zip(own, request_each(is_wrong, own), strict=True)
    return [file["path"] for file, has_other_buckets in checked if has_other_buckets]


def digest_of(files: pa.Table) -> str:
    """Return 16 hex digits of a hash of the files' paths and sizes, regardless of their order."""
    lines = sorted(f"{row['path']} {row['num_bytes']}" for row in files.to_pylist())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@contextmanager
def file_errors(location: Location) -> Iterator[None]:
    """Turn errors in reading the table's files into errors of xrec.errors that name the URI."""
    with storage_errors(location.uri):
        try:
            yield
        except pa.ArrowException as error:
            raise DataError(
                f"{location}: a file of the table cannot be read ({error}); restore the previous "
                "version (xrec table rollback), or run the job again",
                code="broken_file",
                key=str(location),
            ) from error
