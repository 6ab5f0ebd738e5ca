"""Compaction rewrites the many files of chunks and retries as few files of about 128 MB.

The new files are a new generation. Each row group of a new file holds all rows of one
hash(user) mod C, sorted by user and item. A reader finds a user by the list of hashes in the
manifest and by the statistics of the row groups. The new files are written first, then
`compacted.json`, then the manifest. The old files stay in the folder, for those who still read
them, until `--clean`; until then a glob over `part-*.parquet` matches every row twice.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from xrec.backfill.chunk import chunk_of_file
from xrec.backfill.generation import begin_generation
from xrec.backfill.lease import Lease
from xrec.backfill.plan import BackfillPlan
from xrec.backfill.snapshot import COMPACTED, Compacted, read_records, snapshot_of
from xrec.schemas import GENERATED
from xrec.storage import Location, content_hash, read_row_group, read_table

logger = logging.getLogger("xrec")

_BY_PAIR = [("user_id", "ascending"), ("item_id", "ascending")]


def compact(plan: BackfillPlan, lease: Lease, file_bytes: int) -> None:
    """Write all explanations that count into new files of about `file_bytes` bytes each.

    The caller writes the manifest afterwards. The rows of one hash and one unfinished file are in
    memory at a time. Raises LeaseError if another driver took the lease.
    """
    output = plan.output
    snapshot = snapshot_of(read_records(output))
    generation = begin_generation(output, "compaction")
    files: dict[str, str] = {}
    row_groups: dict[str, list[int]] = {}
    for data, buckets in _files(
        output, snapshot.explained, snapshot.row_groups, plan.num_chunks, file_bytes
    ):
        lease.check()
        hash_ = content_hash(data)
        name = f"part-g{generation.number}-{len(files):05d}-{hash_[:8]}.parquet"
        (output / name).write_bytes(data)
        files[name], row_groups[name] = hash_, buckets
    logger.info("%d files of explanations became %d", len(snapshot.explained), len(files))
    (generation.root(output) / COMPACTED).create_bytes(
        json.dumps(Compacted(files=files, row_groups=row_groups).model_dump()).encode()
    )


def _files(
    output: Location,
    names: Mapping[str, str],
    row_groups: Mapping[str, list[int]],
    num_chunks: int,
    file_bytes: int,
) -> Iterator[tuple[bytes, list[int]]]:
    """Yield the content of each new file, with the hashes of its row groups."""
    sink, buckets = pa.BufferOutputStream(), list[int]()
    writer = pq.ParquetWriter(sink, GENERATED, compression="zstd")
    for bucket, table in _tables(output, names, row_groups, num_chunks):
        writer.write_table(table, row_group_size=table.num_rows)
        buckets.append(bucket)
        if sink.tell() >= file_bytes:
            writer.close()
            yield sink.getvalue().to_pybytes(), buckets
            sink, buckets = pa.BufferOutputStream(), []
            writer = pq.ParquetWriter(sink, GENERATED, compression="zstd")
    writer.close()
    if buckets:
        yield sink.getvalue().to_pybytes(), buckets


def _tables(
    output: Location, names: Mapping[str, str], row_groups: Mapping[str, list[int]], num_chunks: int
) -> Iterator[tuple[int, pa.Table]]:
    """Yield each hash that has rows, with all its rows, sorted by user and item."""
    sources: defaultdict[int, list[tuple[str, int | None]]] = defaultdict(list)
    for name in sorted(names):
        if name in row_groups:
            for number, bucket in enumerate(row_groups[name]):
                sources[bucket].append((name, number))
        else:
            sources[chunk_of_file(name) % num_chunks].append((name, None))
    for bucket in sorted(sources):
        yield (
            bucket,
            pa.concat_tables(
                _rows(output.at(name), number) for name, number in sources[bucket]
            ).sort_by(_BY_PAIR),
        )


def _rows(location: Location, row_group: int | None) -> pa.Table:
    return (
        read_table(location, GENERATED)
        if row_group is None
        else read_row_group(location, row_group, GENERATED)
    )
