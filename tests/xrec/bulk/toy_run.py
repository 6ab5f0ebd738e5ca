"""A toy run: its rows, a task that says what it did with them, and actors in the test's process."""

import os
import signal
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.xrec.table.conftest import Place
from xrec.bulk import BulkRun, Identity, Outcome, RowFormat, RunState, clean_keys, drive, open_run
from xrec.bulk.work import Died, Done, Work
from xrec.bulk.worker import ChunkWorker, WorkerSettings
from xrec.table import Snapshot

FORMAT = RowFormat(
    keys=("user", "item"),
    ok=pa.schema([("text", pa.string()), ("num_tokens", pa.int32())]),
    failed=pa.schema([("hint", pa.string())]),
    reasons=("odd", "dull"),
)
IDENTITY = Identity(kind="toy", config={"words": 3}, inputs={"rows": "toy"})


class Killed(BaseException):
    """Ends an actor that runs in the test's process."""


@dataclass(frozen=True)
class ToyTask:
    """Explains rows; an item's name says what happens to its row.

    Items `odd...` and `dull...` fail for that reason, `bad...` raise an error, `kill...` kill the
    process. Once the file `healed` exists, all are well. Each attempt makes another text.

    kill: how an actor dies.
    """

    healed: str
    kill: Callable[[], Any]
    seconds: float = 0.0
    row_errors: tuple[type[Exception], ...] = (ValueError,)

    def do(self, rows: pa.Table) -> Outcome:
        """See ChunkTask."""
        time.sleep(self.seconds)
        pairs = rows.to_pylist()
        is_healed = Path(self.healed).exists()
        if not is_healed:
            self._fall_over([pair["item"] for pair in pairs])
        ok, failed = [], []
        for pair in pairs:
            kind = pair["item"].partition("-")[0]
            if kind in FORMAT.reasons and not is_healed:
                failed.append({**pair, "reason": kind, "message": "no", "hint": "a hint"})
            else:
                text = f"{pair['user']} likes {pair['item']} {uuid.uuid4().hex}"
                ok.append({**pair, "text": text, "num_tokens": 3})
        return Outcome(
            pa.Table.from_pylist(ok, FORMAT.ok_schema),
            pa.Table.from_pylist(failed, FORMAT.failed_schema),
            {"tokens": 3 * len(ok)},
        )

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        """See ChunkTask."""
        failure = {"reason": reason, "message": message, "hint": "a hint"}
        return pa.Table.from_pylist(
            [{**pair, **failure} for pair in rows.to_pylist()], FORMAT.failed_schema
        )

    def _fall_over(self, items: Sequence[str]) -> None:
        if any(item.startswith("kill") for item in items):
            self.kill()
        for item in items:
            if item.startswith("bad"):
                raise ValueError(f"{item} is bad")


def die_here() -> None:
    """End an actor that runs in the test's process."""
    raise Killed


def die() -> None:
    """End the process of an actor."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class PoolHere:
    """One actor in this process; it has up to `num_slots` works and does the first in `wait`.

    before: called with each work that is done. after: what comes of a result; a list of what the
    driver gets.
    """

    settings: WorkerSettings
    num_slots: int = 2
    before: Callable[[Work], object] = lambda work: None
    after: Callable[[Done | Died], list[Done | Died]] = lambda event: [event]
    works: deque[Work] = field(default_factory=deque)
    done: list[Work] = field(default_factory=list)
    num_starts: int = 0
    is_closed: bool = False

    def start(self, num_works: int) -> None:
        """See Pool."""
        assert num_works > 0
        self.num_starts += 1
        self._worker = ChunkWorker(self.settings)

    def can_take(self, is_alone: bool) -> bool:
        """See Pool."""
        is_taken = any(work.is_alone for work in self.works)
        return not is_taken and len(self.works) < (1 if is_alone else self.num_slots)

    def submit(self, work: Work) -> None:
        """See Pool."""
        assert self.can_take(work.is_alone)
        self.works.append(work)

    def wait(self, timeout_seconds: float) -> list[Done | Died]:
        """See Pool; all works of an actor that dies have died."""
        if not self.works:
            return []
        work = self.works.popleft()
        self.done.append(work)
        try:
            self.before(work)
            return self.after(self._worker.do(work))
        except Killed:
            died = [work, *self.works]
            self.works.clear()
            self._worker = ChunkWorker(self.settings)
            return [event for each in died for event in self.after(Died(each, "killed"))]

    def close(self) -> None:
        """See Pool."""
        self.is_closed = True


@dataclass(frozen=True)
class Toy:
    """A run at a place, and the rows that its table must have in the end."""

    run: BulkRun
    rows: list[tuple[str, str]]
    healed: Path

    def pool(self, **changes: Any) -> PoolHere:
        """Actors in this process."""
        return PoolHere(self.settings(), **changes)

    def settings(self, kill: Callable[[], Any] = die_here, **changes: Any) -> WorkerSettings:
        """What the actors get."""
        task = ToyTask(str(self.healed), kill, **changes)
        return self.run.worker_settings(lambda: task)

    def drive(self, pool: PoolHere | None = None, **settings: Any) -> RunState:
        """Run to the end."""
        return drive(self.run, pool or self.pool(), **{"holder": "test", **settings})

    def snapshot(self, version: int | None = None) -> Snapshot:
        """The table."""
        return self.run.table.snapshot(version)

    def heal(self) -> None:
        """Let the rows succeed that failed before."""
        self.healed.touch()


def toy_run(
    place: Place,
    folder: Path,
    items: Sequence[str] = ("a", "b", "c"),
    *,
    num_users: int = 12,
    rows_per_chunk: int = 6,
) -> Toy:
    """Plan a run of every user with every item, with some rows twice."""
    rows = [(f"u-{number}", item) for number in range(num_users) for item in items]
    run = open_run(
        place.uri,
        IDENTITY,
        FORMAT,
        lambda: [batch_of(rows), batch_of(rows[:5])],
        listing={"rows.parquet": ["1", "2"]},
        rows_per_chunk=rows_per_chunk,
        storage=place.storage,
    )
    return Toy(run, sorted(rows), folder / "healed")


def batch_of(rows: Sequence[tuple[str, str]]) -> tuple[pa.Table, pa.Table]:
    """Good rows, and rejected ones, of which there are none."""
    columns = {name: [row[place] for row in rows] for place, name in enumerate(FORMAT.keys)}
    return clean_keys(pa.table(columns), FORMAT.keys, file="rows", first_line=1)


def rows_of(snapshot: Snapshot, status: str | None = None) -> list[tuple[str, str]]:
    """The keys of all rows, sorted; a row that is there twice is there twice."""
    filters: list[Any] = [] if status is None else [("status", "=", status)]
    rows = snapshot.dataset(filters).to_table(columns=list(FORMAT.keys)).to_pylist()
    return sorted((row["user"], row["item"]) for row in rows)
