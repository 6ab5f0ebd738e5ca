"""What counts of an output: its generations' commit records, one after the other. A manifest is a snapshot written down.

Explanations add up; a chunk's failed rows are those of the last generation that touched it; a compaction's files stand for
all explanations before it. Nothing else in the output is read by anybody: a file without a record is garbage.
"""

import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from pydantic import BaseModel, ConfigDict

from xrec.backfill.commit import Commit, committed_chunks, read_commits
from xrec.backfill.generation import Generation, read_generations
from xrec.errors import StorageError, StorageNotFoundError
from xrec.storage import Location

COMPACTED = "compacted.json"

CommitsByChunk = dict[tuple[int, int], Commit]
"""By number of the generation and of the chunk."""


class Compacted(BaseModel):
    """What a compaction made: content hash of each file, and the hash(user) mod C of each of its row groups."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: dict[str, str]
    row_groups: dict[str, list[int]]


@dataclass(frozen=True)
class Snapshot:
    """`explained`: content hash of each file of explanations; `failed`: of each chunk with failed rows the commit that tells them."""

    generation: int = 0
    explained: dict[str, str] = field(default_factory=dict)
    failed: dict[int, Commit] = field(default_factory=dict)
    num_explained: int = 0
    num_carried: int = 0
    row_groups: dict[str, list[int]] = field(default_factory=dict)
    """Of compacted files the hash(user) mod C of each row group."""

    @property
    def files(self) -> dict[str, str]:
        """All files that count."""
        return {
            **self.explained,
            **{
                name: hash_
                for commit in self.failed.values()
                for name, hash_ in commit.failed_files.items()
            },
        }

    @property
    def num_failed(self) -> int:
        """Failed rows."""
        return sum(commit.num_failed for commit in self.failed.values())

    @property
    def num_rows(self) -> int:
        """Explained and failed rows."""
        return self.num_explained + self.num_failed

    @property
    def failed_by_reason(self) -> dict[str, int]:
        """Failed rows of each reason, the most frequent first."""
        reasons: Counter[str] = Counter()
        for commit in self.failed.values():
            reasons.update(commit.failed_by_reason)
        return dict(reasons.most_common())

    def after(self, generation: Generation, commits: Iterable[Commit]) -> "Snapshot":
        """With the commits of the run or of a retry."""
        explained, failed, num_explained, num_carried = (
            dict(self.explained),
            dict(self.failed),
            self.num_explained,
            self.num_carried,
        )
        for commit in commits:
            explained.update(commit.explained_files)
            failed.pop(commit.chunk, None)
            if commit.num_failed:
                failed[commit.chunk] = commit
            num_explained += commit.num_rows
            num_carried += commit.num_carried
        return Snapshot(
            generation.number, explained, failed, num_explained, num_carried, self.row_groups
        )

    def compacted(self, generation: Generation, made: Compacted) -> "Snapshot":
        """With the files of `made` in place of all files of explanations."""
        return replace(
            self, generation=generation.number, explained=made.files, row_groups=made.row_groups
        )


@dataclass(frozen=True)
class Record:
    """A generation and what it committed: chunks, or the files of a finished compaction."""

    generation: Generation
    commits: tuple[Commit, ...] = ()
    compacted: Compacted | None = None

    @property
    def files(self) -> set[str]:
        """All files that it ever named."""
        return {
            *(self.compacted.files if self.compacted else ()),
            *(name for commit in self.commits for name in commit.files),
        }


def read_records(output: Location, known: CommitsByChunk | None = None) -> list[Record]:
    """What all generations committed so far, in order. A commit's record never changes: those of `known` are not read, those read are added."""
    commits = {} if known is None else known
    records: list[Record] = []
    for generation in read_generations(output):
        root = generation.root(output)
        if generation.kind == "compaction":
            records.append(Record(generation, compacted=_read_compacted(root)))
            continue
        chunks = sorted(committed_chunks(root))
        for commit in read_commits(
            root, (chunk for chunk in chunks if (generation.number, chunk) not in commits)
        ):
            commits[generation.number, commit.chunk] = commit
        records.append(
            Record(generation, tuple(commits[generation.number, chunk] for chunk in chunks))
        )
    return records


class RecordLog:
    """The records of one output for its driver, which asks again and again: each commit is read once, and not at all if it was added."""

    def __init__(self, output: Location):
        self._output = output
        self._commits: CommitsByChunk = {}
        self._ahead: threading.Thread | None = None

    def add(self, generation: Generation, commit: Commit) -> None:
        """Take note of a commit that the driver was told of."""
        self._commits[generation.number, commit.chunk] = commit

    def read(self) -> list[Record]:
        """As `read_records`."""
        if self._ahead is not None:
            self._ahead.join()
        return read_records(self._output, self._commits)

    def read_ahead(self) -> None:
        """Begin to read in the background; `read` waits for it. What the store refuses is asked for again, and raised, by `read`."""
        self._ahead = threading.Thread(target=self._read_ahead, daemon=True)
        self._ahead.start()

    def _read_ahead(self) -> None:
        with suppress(StorageError):
            read_records(self._output, self._commits)


def snapshot_of(records: Iterable[Record]) -> Snapshot:
    """What counts after these generations."""
    snapshot = Snapshot()
    for record in records:
        if record.generation.kind != "compaction":
            snapshot = snapshot.after(record.generation, record.commits)
        elif record.compacted is not None:
            snapshot = snapshot.compacted(record.generation, record.compacted)
    return snapshot


def _read_compacted(root: Location) -> Compacted | None:
    """The record of a finished compaction; None while it is under way."""
    try:
        return Compacted.model_validate_json((root / COMPACTED).read_bytes())
    except StorageNotFoundError:
        return None
