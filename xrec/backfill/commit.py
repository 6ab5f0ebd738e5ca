"""Commit records: a chunk counts in a generation when `commits/<chunk>.json` is there; it can be created once.

A worker writes its Parquet files first and the record last. Of two attempts at a chunk the first record wins; the
loser's files are garbage. What is left to do is told by a listing of the records: O(chunks), not O(rows).
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Self

from pydantic import BaseModel, ConfigDict

from xrec.backfill.chunk import chunk_name
from xrec.storage import Location, request_each

FAILED_FOLDER = "failed/"


class EngineWork(BaseModel):
    """What engine calls cost, of xrec.generate.engine_report: tokens of prompts, those computed; products of attention, those that count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_prompt_tokens: int = 0
    num_computed_prompt_tokens: int = 0
    num_key_cells: int = 0
    num_seen_keys: int = 0

    @classmethod
    def sum(cls, works: Iterable[Self]) -> Self:
        """All calls together."""
        totals: Counter[str] = Counter()
        for work in works:
            totals.update(work.model_dump())
        return cls(**totals)


class Work(BaseModel):
    """What an attempt cost: which process did it, when (s since 1970), for how long, how many tokens; attempts before it that died.

    `generated_lengths` counts explanations by their tokens, rounded down to tens. `engine` is None if the engine does not tell.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    actor: str
    started_at: float
    seconds: float
    num_prompt_tokens: int
    num_generated_tokens: int
    generated_lengths: dict[int, int]
    num_deaths: int
    engine: EngineWork | None = None


class Commit(BaseModel):
    """What an attempt adds: file (relative path) and content hash of each table, and the rows in them.

    `num_carried` of the `num_rows` explanations are from an earlier run. In a retry `files` holds the new explanations only,
    and all rows of the chunk that are failed now.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    chunk: int
    files: dict[str, str]
    num_rows: int
    num_failed: int
    failed_by_reason: dict[str, int]
    num_carried: int = 0
    work: Work

    @classmethod
    def read(cls, root: Location, chunk: int) -> Self:
        """The record of a committed chunk."""
        return cls.model_validate_json(commit_location(root, chunk).read_bytes())

    @property
    def explained_files(self) -> dict[str, str]:
        """The files of explanations."""
        return {
            name: hash_ for name, hash_ in self.files.items() if not name.startswith(FAILED_FOLDER)
        }

    @property
    def failed_files(self) -> dict[str, str]:
        """The file of failed rows, if there are any."""
        return {name: hash_ for name, hash_ in self.files.items() if name.startswith(FAILED_FOLDER)}


def commit_location(root: Location, chunk: int) -> Location:
    """Where the record of a chunk lies, in the folder of its generation."""
    return root / "commits" / f"{chunk_name(chunk)}.json"


def try_commit(root: Location, commit: Commit) -> bool:
    """Create the record; False if another attempt at this chunk was first."""
    return commit_location(root, commit.chunk).create_bytes(
        json.dumps(commit.model_dump(), indent=2).encode()
    )


def committed_chunks(root: Location) -> set[int]:
    """The chunks that have a record."""
    return {
        int(name.removesuffix(".json"))
        for name in (root / "commits").files()
        if name.endswith(".json")
    }


def read_commits(root: Location, chunks: Iterable[int]) -> Iterator[Commit]:
    """The records of `chunks`, by number."""
    return request_each(lambda chunk: Commit.read(root, chunk), sorted(chunks))
