"""Carries explanations over from an earlier run, so that unchanged pairs are not generated again.

A worker looks for its pairs in the earlier run's files with the same hash(user) mod C, so the new
run must have the same C as the earlier one. If all rows of a file are carried, the new run refers
to the file by its absolute URI; otherwise the carried rows are copied. Because of the references
the earlier run's files must stay: `--compact` and then `--clean` of the earlier run delete them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from xrec.backfill.chunk import chunk_of_file
from xrec.backfill.commit import FAILED_FOLDER
from xrec.schemas import GENERATED, PAIRS
from xrec.storage import Location, Manifest, read_manifest, read_row_group, read_table


@dataclass(frozen=True)
class Carried:
    """What a chunk takes from an earlier run.

    `files` maps the absolute URI of each file that is carried whole to its content hash; they have
    `num_referred` rows in all. `copied` holds further explanations (schema GENERATED), and `left`
    the pairs that must be explained (PAIRS).
    """

    files: dict[str, str]
    num_referred: int
    copied: pa.Table
    left: pa.Table

    @property
    def num_rows(self) -> int:
        """How many explanations are carried."""
        return self.num_referred + int(self.copied.num_rows)


class EarlierRun:
    """The explanations of a finished run, found by hash(user) mod `num_chunks`."""

    def __init__(self, output: Location, num_chunks: int):
        self._output = output
        self._num_chunks = num_chunks

    def carry(
        self,
        chunk: int,
        pairs: pa.Table,
        keys: pa.Array,
        still_hold: Callable[[pa.Table], pa.Array],
    ) -> Carried:
        """Return which of the N `pairs` (schema PAIRS) need not be generated again, and the rest.

        `keys` are the N content keys of the pairs, null where the user or item is unknown.
        `still_hold` says of explanations (schema GENERATED) which ones keep the rules of this run,
        as booleans; the others are not carried.
        """
        wanted = pairs.append_column("content_key", keys)
        files: dict[str, str] = {}
        copied = [GENERATED.empty_table()]
        num_referred = 0
        for name, hash_, rows, is_whole in self._tables(chunk % self._num_chunks):
            same = rows.join(wanted, [*PAIRS.names, "content_key"], join_type="left semi").select(
                GENERATED.names
            )
            same = same.filter(still_hold(same))
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
        """Return the tables that hold the users of one hash.

        Each has the name of its file, the file's content hash, the rows, and whether the rows are
        the whole file; of a compacted file they are one row group.
        """
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
