"""Computes which files of an output count, from the commit records of its generations.

The generations are applied in order. The explanations of the run and of retries add up. The failed
rows of a chunk are those of the last generation that worked on the chunk. The files of a
compaction replace all explanations before it. A file that no record names does not count. The
manifest is a snapshot that was written down.
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
"""Commits by number of the generation and number of the chunk."""


class Compacted(BaseModel):
    """What a compaction wrote.

    `files` maps each file to its content hash, `row_groups` to the hash(user) mod C of each of its
    row groups.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: dict[str, str]
    row_groups: dict[str, list[int]]


@dataclass(frozen=True)
class Snapshot:
    """The state of an output after the generation with the number `generation`.

    `explained` maps each file of explanations to its content hash. `failed` maps each chunk that
    has failed rows to the commit that names them. `row_groups` maps each compacted file to the
    hash(user) mod C of each of its row groups.
    """

    generation: int = 0
    explained: dict[str, str] = field(default_factory=dict)
    failed: dict[int, Commit] = field(default_factory=dict)
    num_explained: int = 0
    num_carried: int = 0
    row_groups: dict[str, list[int]] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, str]:
        """All files that count, with their content hashes."""
        files = dict(self.explained)
        for commit in self.failed.values():
            files.update(commit.failed_files)
        return files

    @property
    def num_failed(self) -> int:
        """How many rows are failed."""
        return sum(commit.num_failed for commit in self.failed.values())

    @property
    def num_rows(self) -> int:
        """How many rows are explained or failed."""
        return self.num_explained + self.num_failed

    @property
    def failed_by_reason(self) -> dict[str, int]:
        """How many rows are failed for each reason, the most frequent first."""
        reasons: Counter[str] = Counter()
        for commit in self.failed.values():
            reasons.update(commit.failed_by_reason)
        return dict(reasons.most_common())

    def after(self, generation: Generation, commits: Iterable[Commit]) -> "Snapshot":
        """Return the snapshot after `commits` of the run or of a retry."""
        explained, failed = dict(self.explained), dict(self.failed)
        num_explained, num_carried = self.num_explained, self.num_carried
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
        """Return the snapshot after a compaction whose files replace all files of explanations."""
        return replace(
            self, generation=generation.number, explained=made.files, row_groups=made.row_groups
        )


@dataclass(frozen=True)
class Record:
    """A generation and what it committed.

    These are the commits of chunks, or the files of a compaction; `compacted` is None while the
    compaction is under way.
    """

    generation: Generation
    commits: tuple[Commit, ...] = ()
    compacted: Compacted | None = None

    @property
    def files(self) -> set[str]:
        """All files that the generation's records name."""
        return {
            *(self.compacted.files if self.compacted else ()),
            *(name for commit in self.commits for name in commit.files),
        }


def read_records(output: Location, known: CommitsByChunk | None = None) -> list[Record]:
    """Return what each generation committed so far, in order.

    A commit record never changes, so those in `known` are not read again; those that are read are
    added to it.
    """
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
    """The records of one output, for a driver that reads them several times.

    Each commit is read once, and not at all if it was added.
    """

    def __init__(self, output: Location):
        self._output = output
        self._commits: CommitsByChunk = {}
        self._ahead: threading.Thread | None = None

    def add(self, generation: Generation, commit: Commit) -> None:
        """Remember a commit that a worker reported, so that it need not be read."""
        self._commits[generation.number, commit.chunk] = commit

    def read(self) -> list[Record]:
        """Return what `read_records` returns; waits until reading ahead has ended."""
        if self._ahead is not None:
            self._ahead.join()
        return read_records(self._output, self._commits)

    def read_ahead(self) -> None:
        """Begin to read in the background.

        An error of the store is ignored here; `read` asks again and raises it.
        """
        self._ahead = threading.Thread(target=self._read_ahead, daemon=True)
        self._ahead.start()

    def _read_ahead(self) -> None:
        with suppress(StorageError):
            read_records(self._output, self._commits)


def snapshot_of(records: Iterable[Record]) -> Snapshot:
    """Return what counts after the generations of `records`."""
    snapshot = Snapshot()
    for record in records:
        if record.generation.kind != "compaction":
            snapshot = snapshot.after(record.generation, record.commits)
        elif record.compacted is not None:
            snapshot = snapshot.compacted(record.generation, record.compacted)
    return snapshot


def _read_compacted(root: Location) -> Compacted | None:
    """Return the record of a finished compaction, or None if it is not finished."""
    try:
        return Compacted.model_validate_json((root / COMPACTED).read_bytes())
    except StorageNotFoundError:
        return None
