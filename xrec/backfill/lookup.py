"""Looks up the explanations of single pairs in a finished backfill, for xrec.serve.

hash(user_id) mod C leads to the few files, or row groups of compacted files, that may hold a user.
Their statistics usually leave one row group. It is read, kept in memory and searched by bisection,
since its rows are sorted by user and item.
"""

import bisect
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xrec.backfill.chunk import chunk_of, chunk_of_file
from xrec.backfill.commit import FAILED_FOLDER
from xrec.bulk.plan import PLAN
from xrec.errors import ArtifactMismatchError, DataError
from xrec.schemas import GENERATED
from xrec.storage import Location, Manifest, differing_fields, read_manifest, storage_errors
from xrec.storage.cache import ByteCache

_METADATA_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Explained:
    """An explanation of the backfill; the fields are columns of the schema GENERATED."""

    text: str
    num_prompt_tokens: int
    num_generated_tokens: int
    finish_reason: str
    model_fingerprint: str


@dataclass(frozen=True)
class _Part:
    """One row group of a file, or all of them if `row_group` is None."""

    name: str
    row_group: int | None


class ExplanationLookup:
    """Looks explanations up in the files that `manifest` names.

    At most `max_bytes` bytes of row groups are kept in memory. Files are never changed, so what is
    kept stays valid. A later generation has another manifest, and needs another
    `ExplanationLookup`.
    """

    def __init__(self, output: Location, manifest: Manifest, num_chunks: int, max_bytes: int):
        self.manifest = manifest
        self._output, self._num_chunks = output, num_chunks
        self._parts = _parts(manifest, num_chunks)
        self._row_groups: ByteCache[_Part, _RowGroup] = ByteCache(max_bytes)
        self._metadata: ByteCache[str, pq.FileMetaData] = ByteCache(_METADATA_BYTES)

    @property
    def num_rows(self) -> int:
        """How many explanations the backfill has."""
        return self.manifest.row_counts["explanations"]

    @property
    def num_bytes(self) -> int:
        """How many bytes of row groups are in memory."""
        return self._row_groups.num_bytes

    def in_memory(self, user_id: str, item_id: str) -> tuple[bool, Explained | None]:
        """Look the pair up in memory only, without waiting for a file.

        Returns (True, the explanation, or None if the backfill has none), or (False, None) if a
        file must be read to decide it.
        """
        return self._search(user_id, item_id, self._metadata.get, self._row_groups.get)

    def find(self, user_id: str, item_id: str) -> Explained | None:
        """Return the explanation of a pair, or None if the backfill has none; may read files.

        Raises StorageError if a file cannot be reached, and DataError if it is broken.
        """
        return self._search(user_id, item_id, self._read_metadata, self._read_row_group)[1]

    def _search(
        self,
        user_id: str,
        item_id: str,
        metadata_of: Callable[[str], pq.FileMetaData | None],
        row_group_of: Callable[[_Part], "_RowGroup | None"],
    ) -> tuple[bool, Explained | None]:
        """Search for the pair in the row groups that may hold its user.

        Returns (True, the explanation or None), or (False, None) as soon as one of the two
        functions returns None for metadata or a row group that is needed.
        """
        for part in self._parts.get(chunk_of(user_id, self._num_chunks), []):
            metadata = metadata_of(part.name)
            if metadata is None:
                return False, None
            for number in _row_groups_of(metadata, part, user_id):
                row_group = row_group_of(_Part(part.name, number))
                if row_group is None:
                    return False, None
                found = row_group.find(user_id, item_id)
                if found is not None:
                    return True, found
        return True, None

    def _read_metadata(self, name: str) -> pq.FileMetaData:
        metadata = self._metadata.get(name)
        if metadata is None:
            location = self._output.at(name)
            with _readable(location):
                metadata = pq.read_metadata(location.path, filesystem=location.arrow_filesystem())
            self._metadata.put(name, metadata, metadata.serialized_size)
        return metadata

    def _read_row_group(self, part: _Part) -> "_RowGroup":
        row_group = self._row_groups.get(part)
        if row_group is None:
            location, metadata = self._output.at(part.name), self._read_metadata(part.name)
            with (
                _readable(location),
                pq.ParquetFile(
                    location.path, metadata=metadata, filesystem=location.arrow_filesystem()
                ) as file,
            ):
                row_group = _RowGroup(
                    file.read_row_group(part.row_group).cast(GENERATED).combine_chunks()
                )
            self._row_groups.put(part, row_group, row_group.table.nbytes)
        return row_group


@dataclass(frozen=True)
class _RowGroup:
    """Rows (schema GENERATED), sorted by user and item."""

    table: pa.Table

    def find(self, user_id: str, item_id: str) -> Explained | None:
        users, items = self._ids
        place = bisect.bisect_left(
            range(len(users)),
            (user_id, item_id),
            key=lambda row: (users[row].as_py(), items[row].as_py()),
        )
        if place == len(users):
            return None
        if (users[place].as_py(), items[place].as_py()) != (user_id, item_id):
            return None
        row: dict[str, Any] = self.table.slice(place, 1).to_pylist()[0]
        return Explained(
            row["explanation"],
            row["num_prompt_tokens"],
            row["num_generated_tokens"],
            row["finish_reason"],
            row["model_fingerprint"],
        )

    @cached_property
    def _ids(self) -> tuple[pa.Array, pa.Array]:
        user_ids, item_ids = (self.table[name].combine_chunks() for name in ("user_id", "item_id"))
        return user_ids, item_ids


def open_lookup(
    output: Location, expected_inputs: dict[str, str], max_bytes: int
) -> ExplanationLookup:
    """Return a lookup of the finished explanations at `output`.

    `expected_inputs` are the fingerprints of base_model, adapter and graph that the reader has.
    Raises ArtifactNotFoundError if nothing is finished there, and ArtifactMismatchError, which
    names what differs, if another model wrote the explanations.
    """
    manifest = read_manifest(output, "explanations")
    differences = differing_fields(
        {name: manifest.inputs.get(name) for name in expected_inputs}, expected_inputs
    )
    if differences:
        raise ArtifactMismatchError(
            f"{output}: these explanations are of another model:\n"
            + "\n".join(f"  {line}" for line in differences)
            + "\ngive the backfill of this adapter (explanations=URI), run one, "
            "or serve the adapter that wrote these explanations"
        )
    num_chunks = int(json.loads((output / PLAN).read_text())["num_chunks"])
    return ExplanationLookup(output, manifest, num_chunks, max_bytes)


@contextmanager
def _readable(location: Location) -> Iterator[None]:
    with storage_errors(location.uri):
        try:
            yield
        except pa.ArrowInvalid as error:
            raise DataError(
                f"{location}: not a readable Parquet file ({error}); restore it, or run the "
                "backfill into another output"
            ) from error


def _parts(manifest: Manifest, num_chunks: int) -> dict[int, list[_Part]]:
    """Return the parts that may hold the users of each hash."""
    compacted: dict[str, list[int]] = manifest.metrics.get("compacted", {})
    parts: defaultdict[int, list[_Part]] = defaultdict(list)
    for name in manifest.files:
        if name in compacted:
            for number, bucket in enumerate(compacted[name]):
                parts[bucket].append(_Part(name, number))
        elif not name.startswith(FAILED_FOLDER):
            parts[chunk_of_file(name) % num_chunks].append(_Part(name, None))
    return dict(parts)


def _row_groups_of(metadata: pq.FileMetaData, part: _Part, user_id: str) -> list[int]:
    """Return the row groups of `part` that may hold the user, by their statistics."""
    numbers = range(metadata.num_row_groups) if part.row_group is None else [part.row_group]
    return [
        number for number in numbers if _may_hold(metadata.row_group(number).column(0), user_id)
    ]


def _may_hold(column: pq.ColumnChunkMetaData, user_id: str) -> bool:
    statistics = column.statistics
    if statistics is None or not statistics.has_min_max:
        return True
    return bool(statistics.min <= user_id <= statistics.max)
