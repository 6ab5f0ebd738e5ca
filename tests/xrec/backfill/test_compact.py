"""Compaction keeps all rows, and a reader that opened the old files can go on."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from xrec.backfill.chunk import chunk_of

import jobs.backfill
from tests.xrec.backfill.runs import output_of, pairs_of, rows_by_manifest, run
from tests.xrec.backfill.toy_engines import Toy
from xrec.backfill import read
from xrec.schemas import GENERATED
from xrec.storage import read_manifest

pytestmark = pytest.mark.usefixtures("actors_here")

PAIRS_OF_USERS = tuple(f"u{user} i{item}" for user in range(12) for item in range(4))


@pytest.mark.parametrize(("compact_mib", "num_files"), [(128.0, 1), (0.0005, 0)])
def test_compact_keeps_each_row_and_the_readers_of_the_old_files(
    make_config: Callable[..., Any],
    pairs: Callable[..., pa.Table],
    s3: Any,
    compact_mib: float,
    num_files: int,
) -> None:
    config = make_config(
        rows_per_chunk=4,
        storage=s3.storage,
        explanations=f"{s3.new_bucket()}/out",
        compact_mib=compact_mib,
        garbage_hours=0,
    )
    first = run(config, pairs(*PAIRS_OF_USERS, "nobody i0"), load=Toy())
    output = output_of(config)
    before = rows_by_manifest(output)
    reader = read(output.uri, config.storage)
    manifest = jobs.backfill.compact_output(config)
    assert manifest.metrics["generation"] == 2
    assert manifest.row_counts == first.row_counts
    assert rows_by_manifest(output) == before
    assert len(rows_by_manifest(output, failed=True)) == 1
    # The files of the first generation are still there, so a reader of them goes on.
    assert reader.to_table().num_rows == len(before)

    parts = sorted(name for name in manifest.files if name.startswith("part-"))
    assert (
        len(parts) == num_files
        if num_files
        else 1 < len(parts) < len([name for name in first.files if name.startswith("part-")])
    )
    compacted = manifest.metrics["compacted"]
    assert sorted(compacted) == parts
    for name, buckets in compacted.items():
        _check_row_groups((output / name).read_bytes(), buckets, num_chunks=16)
    seen = [bucket for buckets in compacted.values() for bucket in buckets]
    assert len(seen) == len(set(seen))

    assert jobs.backfill.clean_output(config) == len(
        [name for name in first.files if name.startswith("part-")]
    )
    assert rows_by_manifest(output) == before
    again = jobs.backfill.compact_output(config)  # this compacts compacted files
    assert rows_by_manifest(output) == before
    assert again.metrics["generation"] == 3


def _check_row_groups(data: bytes, buckets: list[int], num_chunks: int) -> None:
    """Check that each row group holds the sorted rows of its hash, with true statistics."""
    file = pq.ParquetFile(pa.BufferReader(data))
    assert file.schema_arrow.equals(GENERATED)
    assert file.metadata.num_row_groups == len(buckets)
    for number, bucket in enumerate(buckets):
        rows = file.read_row_group(number).to_pylist()
        assert {chunk_of(row["user_id"], num_chunks) for row in rows} == {bucket}
        assert pairs_of(rows) == sorted(pairs_of(rows))
        column = file.metadata.row_group(number).column(0)
        users = (column.statistics.min, column.statistics.max)
        assert users == (rows[0]["user_id"], rows[-1]["user_id"])
        assert column.compression == "ZSTD"


def test_compact_then_retry_then_compact_keeps_every_row(
    make_config: Callable[..., Any], pairs: Callable[..., pa.Table], tmp_path: Any
) -> None:
    (tmp_path / "muted").touch()
    toy = Toy(mute=PAIRS_OF_USERS[:5], muted=str(tmp_path / "muted"))
    config = make_config(rows_per_chunk=4, garbage_hours=0)
    run(config, pairs(*PAIRS_OF_USERS), load=toy)
    jobs.backfill.compact_output(config)
    jobs.backfill.clean_output(config)
    (tmp_path / "muted").unlink()
    run(make_config(rows_per_chunk=4, retry_failed="all"), pairs(*PAIRS_OF_USERS), load=toy)
    output = output_of(config)
    assert pairs_of(rows_by_manifest(output)) == sorted(PAIRS_OF_USERS)
    jobs.backfill.compact_output(config)
    jobs.backfill.clean_output(config)
    assert pairs_of(rows_by_manifest(output)) == sorted(PAIRS_OF_USERS)
    manifest = read_manifest(output, "explanations")
    assert {name for name in output.files() if name.startswith(("part-", "failed/"))} == set(
        manifest.files
    )
    assert (manifest.metrics["generation"], manifest.row_counts["failed"]) == (4, 0)
