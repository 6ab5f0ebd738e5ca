"""Commit records: a chunk is done in a generation when its `commits/<chunk>.json` is there.

A worker writes the Parquet files of a chunk first and the record last, and a record can be created
only once. So of two attempts at a chunk the first to write its record wins, and the files of the
other do not count. A listing of the records tells which chunks are left.
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
    """What calls of the engine cost; the fields are those of xrec.generate.engine_report."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_prompt_tokens: int = 0
    num_computed_prompt_tokens: int = 0
    num_key_cells: int = 0
    num_seen_keys: int = 0

    @classmethod
    def sum(cls, works: Iterable[Self]) -> Self:
        """Add up all fields."""
        totals: Counter[str] = Counter()
        for work in works:
            totals.update(work.model_dump())
        return cls(**totals)


class Work(BaseModel):
    """What the attempt that committed a chunk cost.

    `actor` names the process, `started_at` is in seconds since 1970, and `num_deaths` counts the
    earlier attempts that died. `generated_lengths` maps a number of tokens, rounded down to a
    multiple of ten, to the number of explanations of that length. `engine` is None if the engine
    does not report its work.
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
    """What an attempt adds to the output.

    `files` maps the name of each file to its content hash: a path relative to the output, or an
    absolute URI for a file of an earlier run. `num_carried` of the `num_rows` explanations come
    from an earlier run. In a retry `files` holds the new explanations only, and all rows of the
    chunk that are still failed.
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
        """Return the record of a committed chunk."""
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
    """Return where the record of a chunk lies below `root`, the folder of its generation."""
    return root / "commits" / f"{chunk_name(chunk)}.json"


def try_commit(root: Location, commit: Commit) -> bool:
    """Create the record; returns False if another attempt at this chunk was first."""
    return commit_location(root, commit.chunk).create_bytes(
        json.dumps(commit.model_dump(), indent=2).encode()
    )


def committed_chunks(root: Location) -> set[int]:
    """Return the chunks that have a record."""
    return {
        int(name.removesuffix(".json"))
        for name in (root / "commits").files()
        if name.endswith(".json")
    }


def read_commits(root: Location, chunks: Iterable[int]) -> Iterator[Commit]:
    """Yield the records of `chunks`, sorted by number."""
    return request_each(lambda chunk: Commit.read(root, chunk), sorted(chunks))
