"""Looks single rows up in the table of a run at one version, and keeps in memory what was read.

bucket = hash(first key) mod C leads to few files, by the statistics in the table's log. A file's
footer, which is read once, leads to few row groups. A row group is read with one request, and
searched by bisection, because its rows are sorted by their keys.
"""

import bisect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xrec.bulk.keys import key_hash
from xrec.bulk.row_format import OK
from xrec.errors import DataError
from xrec.storage import (
    Location,
    Tail,
    read_footer,
    read_known_row_group,
    request_each,
    storage_errors,
)
from xrec.storage.cache import ByteCache
from xrec.table import Snapshot

_FOOTER_SHARE = 0.25  # of a cache
_FOOTERS_AT_ONCE = 64
_BYTES_PER_FOOTER_BYTE = 8  # what pyarrow holds for each byte of a footer: 7.7 were measured


class LookupCache:
    """What look-ups keep in memory: at most `max_bytes` bytes, the least recently used go first.

    Files never change and no two have one name, so look-ups at several versions may share it.
    """

    def __init__(self, max_bytes: int):
        for_footers = int(max_bytes * _FOOTER_SHARE)
        self.footers: ByteCache[str, Footer] = ByteCache(for_footers)
        self.row_groups: ByteCache[tuple[str, int], pa.Table] = ByteCache(max_bytes - for_footers)

    @property
    def num_bytes(self) -> int:
        """How many bytes are in memory."""
        return self.footers.num_bytes + self.row_groups.num_bytes


@dataclass(frozen=True)
class Footer:
    """A file's footer, and of each of its row groups the least and greatest bucket, (G,)."""

    metadata: pq.FileMetaData
    least: npt.NDArray[np.int64]
    greatest: npt.NDArray[np.int64]

    @classmethod
    def of(cls, metadata: pq.FileMetaData) -> "Footer":
        """What the footer says."""
        column = metadata.schema.names.index("bucket")
        statistics = [
            metadata.row_group(number).column(column).statistics
            for number in range(metadata.num_row_groups)
        ]
        least = np.array([each.min for each in statistics], dtype=np.int64)
        greatest = np.array([each.max for each in statistics], dtype=np.int64)
        return cls(metadata, least, greatest)

    @property
    def num_bytes(self) -> int:
        """The bytes that it takes in memory, roughly."""
        num_bytes: int = self.metadata.serialized_size * _BYTES_PER_FOOTER_BYTE
        return num_bytes + self.least.nbytes + self.greatest.nbytes

    def row_groups(self, bucket: int) -> list[int]:
        """The row groups that may hold rows of the bucket."""
        is_wanted = (self.least <= bucket) & (bucket <= self.greatest)
        return [int(number) for number in np.flatnonzero(is_wanted)]


class RowLookup:
    """Looks up rows that succeeded; threads may share it.

    snapshot: the table of a run at the version to look in.
    schema: the columns to return; its first columns are the rows' keys.
    num_keys: how many keys there are.
    num_buckets: C, which stands in the run's plan.
    """

    def __init__(
        self,
        output: Location,
        snapshot: Snapshot,
        schema: pa.Schema,
        *,
        num_keys: int,
        num_buckets: int,
        cache: LookupCache,
    ):
        self.version = snapshot.version
        self._output, self._schema, self._num_buckets = output, schema, num_buckets
        self._keys = schema.names[:num_keys]
        self._cache = cache
        files = snapshot.files([("status", "=", OK)])
        self.num_rows: int = pc.sum(files["num_rows"]).as_py() or 0
        self._paths = files["path"].combine_chunks()
        self._least, self._greatest = (
            files[name].to_numpy().astype(np.int32) for name in ("min.bucket", "max.bucket")
        )

    def find(self, *key: str) -> pa.Table:
        """The rows whose first keys are `key`, sorted; reads files unless they are in memory.

        Raises StorageError if a file cannot be reached, DataError if it is broken.
        """
        found = self._search(key, self._read_footer, self._read_row_group)
        assert found is not None
        return found

    def in_memory(self, *key: str) -> pa.Table | None:
        """The same, or None if a file must be read to know."""
        footers, row_groups = self._cache.footers, self._cache.row_groups
        return self._search(
            key,
            lambda path: (footer, None) if (footer := footers.get(path)) else None,
            lambda path, number, footer, tail: row_groups.get((path, number)),
        )

    def read_footers(self) -> int:
        """Read the footers of all files, as far as the cache has room; returns how many are known.

        After that the first look-up in a file takes one request. Raises as `find` does.
        """
        paths = self._paths.to_pylist()
        known = 0
        for first in range(0, len(paths), _FOOTERS_AT_ONCE):
            if self._cache.footers.is_nearly_full:
                break
            some = paths[first : first + _FOOTERS_AT_ONCE]
            known += len([*request_each(self._read_footer, some)])
        return known

    def _search(
        self,
        key: tuple[str, ...],
        footer_of: Callable[[str], tuple[Footer, Tail | None] | None],
        row_group_of: Callable[[str, int, Footer, Tail | None], pa.Table | None],
    ) -> pa.Table | None:
        """The rows with this key; None as soon as one of the functions returns None."""
        bucket = key_hash(key[0]) % self._num_buckets
        found = []
        for path in self._files(bucket):
            footer = footer_of(path)
            if footer is None:
                return None
            for number in footer[0].row_groups(bucket):
                rows = row_group_of(path, number, *footer)
                if rows is None:
                    return None
                if (there := _with_key(rows, self._keys, key)).num_rows:
                    found.append(there)
        if len(found) == 1:
            return found[0]
        rows = pa.concat_tables([self._schema.empty_table(), *found])
        return rows.sort_by([(name, "ascending") for name in self._keys])

    def _files(self, bucket: int) -> list[str]:
        numbers = np.flatnonzero((self._least <= bucket) & (bucket <= self._greatest))
        return [self._paths[int(number)].as_py() for number in numbers]

    def _read_footer(self, path: str) -> tuple[Footer, Tail | None]:
        """The footer, and the end of the file if that was read for it."""
        footer = self._cache.footers.get(path)
        if footer is not None:
            return footer, None
        location = self._output / path
        with _readable(location):
            metadata, tail = read_footer(location)
            footer = Footer.of(metadata)
        self._cache.footers.put(path, footer, footer.num_bytes)
        return footer, tail

    def _read_row_group(
        self, path: str, number: int, footer: Footer, tail: Tail | None
    ) -> pa.Table:
        rows = self._cache.row_groups.get((path, number))
        if rows is not None:
            return rows
        location = self._output / path
        with _readable(location):
            names = self._schema.names
            rows = read_known_row_group(location, footer.metadata, number, names, tail)
            rows = rows.select(names).cast(self._schema).combine_chunks()
        self._cache.row_groups.put((path, number), rows, rows.nbytes)
        return rows


@contextmanager
def _readable(location: Location) -> Iterator[None]:
    with storage_errors(location.uri):
        try:
            yield
        except pa.ArrowInvalid as error:
            raise DataError(
                f"{location}: not a readable Parquet file ({error}); restore it, or run its job "
                "into another output"
            ) from error


def _with_key(rows: pa.Table, keys: list[str], key: tuple[str, ...]) -> pa.Table:
    """The rows whose first keys are `key`; `rows` are sorted by their keys."""
    columns = [rows[name].chunk(0) for name in keys[: len(key)]]

    def key_of(row: int) -> tuple[str, ...]:
        return tuple(column[row].as_py() for column in columns)

    start = bisect.bisect_left(range(rows.num_rows), key, key=key_of)
    stop = bisect.bisect_right(range(rows.num_rows), key, lo=start, key=key_of)
    return rows.slice(start, stop - start)
