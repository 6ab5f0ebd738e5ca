"""Explanations carried over from an earlier run: what did not change is not generated again.

A worker looks its pairs up in the earlier run's files of the same hash(user) mod C, so the new run has the earlier one's C.
A file whose rows are all carried is named by reference, by its absolute URI; of another the carried rows are copied.
"""

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from xrec.backfill.chunk import chunk_of_file
from xrec.backfill.commit import FAILED_FOLDER
from xrec.schemas import GENERATED, PAIRS
from xrec.storage import Location, Manifest, read_manifest, read_row_group, read_table


@dataclass(frozen=True)
class Carried:
    """`files`: whole files by absolute URI and hash, of `num_referred` rows; `copied`: further rows (GENERATED); `left`: pairs to explain (PAIRS)."""

    files: dict[str, str]
    num_referred: int
    copied: pa.Table
    left: pa.Table

    @property
    def num_rows(self) -> int:
        """Rows that are not generated again."""
        return self.num_referred + int(self.copied.num_rows)


class EarlierRun:
    """A finished run's explanations, found by hash(user) mod `num_chunks`."""

    def __init__(self, output: Location, num_chunks: int):
        self._output = output
        self._num_chunks = num_chunks

    def carry(self, chunk: int, pairs: pa.Table, keys: pa.Array) -> Carried:
        """What of `pairs` (N rows of PAIRS, with their content keys, null for an unknown user or item) need not be generated."""
        wanted = pairs.append_column("content_key", keys)
        files: dict[str, str] = {}
        copied = [GENERATED.empty_table()]
        num_referred = 0
        for name, hash_, rows, is_whole in self._tables(chunk % self._num_chunks):
            same = rows.join(wanted, [*PAIRS.names, "content_key"], join_type="left semi").select(
                GENERATED.names
            )
            if is_whole and same.num_rows == rows.num_rows:
                files[self._output.at(name).shared_uri] = hash_
                num_referred += rows.num_rows
            else:
                copied.append(same.cast(GENERATED))
            wanted = wanted.join(same.select(PAIRS.names), PAIRS.names, join_type="left anti")
        left = (
            wanted.select(PAIRS.names)
            .sort_by([(name, "ascending") for name in PAIRS.names])
            .cast(PAIRS)
        )
        return Carried(files, num_referred, pa.concat_tables(copied), left)

    def _tables(self, bucket: int) -> list[tuple[str, str, pa.Table, bool]]:
        """Name, hash and rows of each file, or of the row group of a compacted file, with users of this hash; is it a whole file?"""
        files = self._manifest.files
        compacted: dict[str, list[int]] = self._manifest.metrics.get("compacted", {})
        tables = [
            (name, files[name], read_table(self._output.at(name), GENERATED), True)
            for name in sorted(files)
            if not name.startswith(FAILED_FOLDER)
            and name not in compacted
            and chunk_of_file(name) % self._num_chunks == bucket
        ]
        for name, buckets in compacted.items():
            if bucket in buckets:
                tables.append(
                    (
                        name,
                        files[name],
                        read_row_group(self._output.at(name), buckets.index(bucket), GENERATED),
                        False,
                    )
                )
        return tables

    @cached_property
    def _manifest(self) -> Manifest:
        return read_manifest(self._output, "explanations")
