"""Commit records: a chunk counts when `commits/<chunk>.json` is there; it can be created once.

A worker writes its Parquet files first and the record last. Of two attempts at a chunk the first record wins; the
loser's files are garbage. What is left to do is told by a listing of the records: O(chunks), not O(rows).
"""

import json
from collections.abc import Iterable
from typing import Self

from pydantic import BaseModel, ConfigDict

from xrec.backfill.plan import chunk_name
from xrec.storage import Location


class Commit(BaseModel):
    """What counts of a chunk: file (relative path) and content hash of each table, and the rows in them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chunk: int
    files: dict[str, str]
    num_rows: int
    num_failed: int
    failed_by_reason: dict[str, int]

    @classmethod
    def read(cls, output: Location, chunk: int) -> Self:
        """The record of a committed chunk."""
        return cls.model_validate_json(commit_location(output, chunk).read_bytes())


def commit_location(output: Location, chunk: int) -> Location:
    """Where the record of a chunk lies."""
    return output / "commits" / f"{chunk_name(chunk)}.json"


def try_commit(output: Location, commit: Commit) -> bool:
    """Create the record; False if another attempt at this chunk was first."""
    return commit_location(output, commit.chunk).create_bytes(json.dumps(commit.model_dump(), indent=2).encode())


def committed_chunks(output: Location) -> set[int]:
    """The chunks that have a record."""
    return {int(name.removesuffix(".json")) for name in (output / "commits").files() if name.endswith(".json")}


def read_commits(output: Location, chunks: Iterable[int]) -> list[Commit]:
    """The records of `chunks`, by number."""
    return [Commit.read(output, chunk) for chunk in sorted(chunks)]
