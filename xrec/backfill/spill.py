"""Keeps all pairs of a run on this machine's disk, so that they need not fit in memory.

One pass over the input writes the N rows to B buckets by the hash of the user. A second pass sorts
each bucket and drops duplicates. A bucket is read as a whole, so memory is needed for N / B pairs:
1e8 pairs take about 20 MB a bucket, and 3 GB of disk.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xrec.backfill.chunk import user_hash
from xrec.schemas import PAIRS
from xrec.storage import fingerprint_of

# A power of two, as the number of chunks is: a chunk lies in one bucket or consists of whole ones.
_NUM_BUCKETS = 256
_BY_PAIR = [("user_id", "ascending"), ("item_id", "ascending")]


class PairSpill:
    """The distinct pairs of `batches` (schema PAIRS), on disk.

    `num_given` counts the pairs with duplicates, `num_pairs` without. `fingerprint` is a hash of
    the set of pairs, which does not depend on their order.
    """

    def __init__(self, batches: Iterable[pa.Table]):
        self._folder = TemporaryDirectory(prefix="xrec-pairs-")
        self.num_given = _deal(batches, Path(self._folder.name))
        self._buckets = sorted(int(path.stem) for path in Path(self._folder.name).iterdir())
        summaries = [self._sort(bucket) for bucket in self._buckets]
        self.num_pairs = sum(num_rows for num_rows, _ in summaries)
        self.fingerprint = fingerprint_of(
            [[bucket, digest] for bucket, (_, digest) in zip(self._buckets, summaries, strict=True)]
        )

    def chunks(self, num_chunks: int) -> Iterator[tuple[int, pa.Table]]:
        """Yield each chunk that has pairs, with its pairs sorted by user and item.

        A chunk is a value of hash(user) mod `num_chunks`, which must be a power of two.
        """
        assert num_chunks & (num_chunks - 1) == 0, num_chunks
        for first in range(min(num_chunks, _NUM_BUCKETS)):
            buckets = [bucket for bucket in self._buckets if bucket % num_chunks == first]
            if buckets:
                pairs = pa.concat_tables(_read(self._path(bucket)) for bucket in buckets)
                yield from _by_chunk(pairs.sort_by(_BY_PAIR), num_chunks)

    def delete(self) -> None:
        """Delete the pairs from the disk."""
        self._folder.cleanup()

    def _path(self, bucket: int) -> Path:
        return Path(self._folder.name) / f"{bucket:03d}.arrow"

    def _sort(self, bucket: int) -> tuple[int, str]:
        """Sort the bucket's rows and drop duplicates; returns the number of rows and their hash."""
        pairs = (
            _read(self._path(bucket))
            .group_by(PAIRS.names)
            .aggregate([])
            .sort_by(_BY_PAIR)
            .select(PAIRS.names)
            .cast(PAIRS)
        )
        with pa.ipc.new_stream(str(self._path(bucket)), PAIRS) as writer:
            writer.write_table(pairs)
        return pairs.num_rows, pairs_hash(pairs)


def pairs_hash(pairs: pa.Table) -> str:
    """Return 16 hex digits of the SHA-256 of the ids in their order."""
    rows = pc.binary_join_element_wise(pairs["user_id"], pairs["item_id"], "\x1f")
    return hashlib.sha256("\x1e".join(rows.to_pylist()).encode("utf-8")).hexdigest()[:16]


def _deal(batches: Iterable[pa.Table], folder: Path) -> int:
    """Write each batch's rows to the files of their buckets; returns the number of rows."""
    writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
    num_rows = 0
    try:
        for batch in batches:
            num_rows += batch.num_rows
            for bucket, rows in _by_key(batch, user_hashes(batch["user_id"]) % _NUM_BUCKETS):
                if bucket not in writers:
                    writers[bucket] = pa.ipc.new_stream(str(folder / f"{bucket:03d}.arrow"), PAIRS)
                writers[bucket].write_table(rows)
    finally:
        for writer in writers.values():
            writer.close()
    return num_rows


def _by_chunk(pairs: pa.Table, num_chunks: int) -> Iterator[tuple[int, pa.Table]]:
    return _by_key(pairs, user_hashes(pairs["user_id"]) % num_chunks)


def _by_key(table: pa.Table, keys: npt.NDArray[np.uint64]) -> Iterator[tuple[int, pa.Table]]:
    """Yield each distinct key with its rows, in their order; `keys` has one key a row, (N,)."""
    order = np.argsort(keys, kind="stable")
    values, starts = np.unique(keys[order], return_index=True)
    ordered = table.take(pa.array(order)).combine_chunks()
    for value, start, num_rows in zip(
        values, starts, np.diff(starts, append=len(order)), strict=True
    ):
        yield int(value), ordered.slice(start, num_rows)


def user_hashes(user_ids: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """Return the `user_hash` of each of N ids, (N,); it is computed once for each distinct id."""
    ids = pa.concat_arrays(user_ids.chunks) if user_ids.num_chunks else pa.array([], pa.string())
    encoded = ids.dictionary_encode()
    distinct = np.array(
        [user_hash(user_id) for user_id in encoded.dictionary.to_pylist()], dtype=np.uint64
    )
    hashes: npt.NDArray[np.uint64] = distinct[encoded.indices.to_numpy(zero_copy_only=False)]
    return hashes


def _read(path: Path) -> pa.Table:
    with pa.ipc.open_stream(str(path)) as reader:
        return reader.read_all()
