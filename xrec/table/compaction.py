"""Compaction: many small files become few, sorted, with one row group for each group of rows.

A group is the rows of a partition with one value of the column `group_by`. The files of a partition
are ordered by their least group. Files whose ranges of groups overlap are rewritten together, so
that each group ends up in one file.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from xrec.storage import Location
from xrec.table.data_file import DataFile, write_file
from xrec.table.format import TableFormat
from xrec.table.snapshot import Filter, Snapshot

_PREFIX = "compact"


@dataclass(frozen=True)
class Piece:
    """The groups `least` to `greatest` of a partition: one file to write, out of `paths`."""

    partition: dict[str, str]
    paths: tuple[str, ...]
    least: int
    greatest: int
    num_bytes: int
    """Of the files at `paths`."""


def plan_pieces(snapshot: Snapshot, group_by: str, target_bytes: int) -> list[Piece]:
    """The files to write, each of about `target_bytes`; files that are fine are in none of them.

    Every file that is in a piece is in as many pieces as it takes to rewrite all of its rows.

    Raises ValueError unless `group_by` is an integer column with statistics.
    """
    format = snapshot.format
    field = format.schema.field(group_by)
    if group_by not in format.statistics or field.nullable or not pa.types.is_integer(field.type):
        raise ValueError(f"column {field}: expected a non-null integer column with statistics")
    pieces: list[Piece] = []
    for partition in _partitions_of(snapshot.files(), format):
        files = snapshot.files([(name, "=", value) for name, value in partition.items()])
        whole = _join_overlapping(_as_pieces(files, partition, group_by))
        for joined in _join_small(whole, target_bytes):
            if not _is_compact(joined):
                pieces += _split_large(joined, target_bytes)
    return pieces


def write_piece(
    table: Location, snapshot: Snapshot, piece: Piece, group_by: str, sort_by: Sequence[str]
) -> DataFile | None:
    """Write a piece's rows, sorted; returns None if it has none."""
    filters: list[Filter] = [
        *((name, "=", value) for name, value in piece.partition.items()),
        (group_by, ">=", piece.least),
        (group_by, "<=", piece.greatest),
    ]
    rows = snapshot.dataset(filters, paths=piece.paths).to_table()
    if rows.num_rows == 0:
        return None
    rows = rows.sort_by([(name, "ascending") for name in (group_by, *sort_by)])
    return write_file(
        table,
        snapshot.format,
        rows,
        name=f"{_PREFIX}-{piece.least}-{piece.greatest}",
        partition=piece.partition,
        row_group_by=group_by,
    )


def _partitions_of(files: pa.Table, format: TableFormat) -> list[dict[str, str]]:
    columns = [f"partition.{name}" for name in format.partition_by]
    if not columns:
        return [{}]
    distinct = files.group_by(columns).aggregate([]).to_pylist()
    return [
        {name: row[f"partition.{name}"] for name in format.partition_by}
        for row in sorted(distinct, key=lambda row: [row[column] for column in columns])
    ]


def _as_pieces(files: pa.Table, partition: dict[str, str], group_by: str) -> Iterator[Piece]:
    """Each file as a piece of its own, in the order of their least groups."""
    columns = ("path", f"min.{group_by}", f"max.{group_by}", "num_bytes")
    rows = zip(*(files[name].to_pylist() for name in columns), strict=True)
    for path, least, greatest, num_bytes in sorted(rows, key=lambda row: (row[1], row[2], row[0])):
        yield Piece(partition, (path,), least, greatest, num_bytes)


def _join_overlapping(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Join pieces that have a group in common."""
    current: Piece | None = None
    for piece in pieces:
        if current is None or piece.least > current.greatest:
            if current is not None:
                yield current
            current = piece
        else:
            current = _join(current, piece)
    if current is not None:
        yield current


def _join_small(pieces: Iterator[Piece], target_bytes: int) -> Iterator[Piece]:
    """Join neighbours as long as they are not larger than `target_bytes` together."""
    current: Piece | None = None
    for piece in pieces:
        if current is None:
            current = piece
        elif current.num_bytes + piece.num_bytes <= target_bytes:
            current = _join(current, piece)
        else:
            yield current
            current = piece
    if current is not None:
        yield current


def _split_large(piece: Piece, target_bytes: int) -> Iterator[Piece]:
    """Divide a piece's range of groups, so that each part has about `target_bytes`."""
    num_groups = piece.greatest - piece.least + 1
    num_parts = min(num_groups, -(-piece.num_bytes // target_bytes))
    bounds = [piece.least + num_groups * part // num_parts for part in range(num_parts + 1)]
    for start, end in itertools.pairwise(bounds):
        yield Piece(piece.partition, piece.paths, start, end - 1, piece.num_bytes)


def _join(one: Piece, other: Piece) -> Piece:
    return Piece(
        one.partition,
        one.paths + other.paths,
        min(one.least, other.least),
        max(one.greatest, other.greatest),
        one.num_bytes + other.num_bytes,
    )


def _is_compact(piece: Piece) -> bool:
    """True if a compaction wrote all files of the piece; then no group is in two of them."""
    return all(path.rpartition("/")[2].startswith(f"{_PREFIX}-") for path in piece.paths)
