"""A toy run, whose items' names say what happens to their rows, and helpers for its table."""

import os
import signal
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.world.here import Killed, Place, PoolHere
from xrec import bulk
from xrec.bulk import publisher
from xrec.bulk.progress import TERM, read_progress, write_progress
from xrec.storage import Manifest

FORMAT = bulk.RowFormat(
    keys=("user", "item"),
    ok=pa.schema([("text", pa.string()), ("num_tokens", pa.int32())]),
    failed=pa.schema([("hint", pa.string())]),
    reasons=("odd", "dull"),
)
IDENTITY = bulk.Identity(kind="explanations", config={"words": 3}, inputs={"rows": "toy"})
OTHER = IDENTITY.model_copy(update={"config": {"words": 4}})


def die_here() -> None:
    raise Killed


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class ToyTask:
    """Explains rows, each attempt with another text.

    Items `odd...` and `dull...` fail for that reason, `bad...` raise an error, and the rows of
    `killers` kill the process, until the file `healed` exists. kill: how a process dies. seconds:
    the time for a row. mark: the start of each text, and the hint of a failed row.
    """

    healed: str
    kill: Callable[[], Any] = die_here
    seconds: float = 0.0
    killers: Collection[tuple[str, str]] = ()
    row_errors: tuple[type[Exception], ...] = (ValueError,)
    mark: str = "a hint"
    format: bulk.RowFormat = FORMAT

    def do(self, rows: pa.Table) -> bulk.Outcome:
        time.sleep(self.seconds * rows.num_rows)
        pairs = rows.select(self.format.keys).to_pylist()
        is_healed = Path(self.healed).exists()
        if not is_healed:
            self._fall_over(pairs)
        ok, failed = [], []
        for pair in pairs:
            user, item = pair.values()
            kind = item.partition("-")[0]
            if kind in FORMAT.reasons and not is_healed:
                failed.append({**pair, "reason": kind, "message": "no", "hint": self.mark})
            else:
                text = f"{self.mark}, {user} likes {item} {os.getpid()} {uuid.uuid4().hex}"
                ok.append({**pair, "text": text, "num_tokens": 3})
        return bulk.Outcome(
            pa.Table.from_pylist(ok, self.format.ok_schema),
            pa.Table.from_pylist(failed, self.format.failed_schema),
            {"tokens": 3 * len(ok), "num_generated_tokens": 3 * len(ok)},
        )

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        failure = {"reason": reason, "message": message, "hint": self.mark}
        failed = [{**pair, **failure} for pair in rows.to_pylist()]
        return pa.Table.from_pylist(failed, self.format.failed_schema)

    def _fall_over(self, pairs: Sequence[Mapping[str, str]]) -> None:
        for pair in pairs:
            if (*pair.values(),) in self.killers:
                self.kill()
        for _, item in (pair.values() for pair in pairs):
            if item.startswith("bad"):
                raise ValueError(f"{item} is bad")


@dataclass(frozen=True)
class Toy:
    """A run, and the rows that its table must finally have."""

    run: bulk.BulkRun
    rows: list[tuple[str, str]]
    healed: Path

    def make_task(self, kind: type[ToyTask] = ToyTask, **changes: Any) -> Callable[[], Any]:
        return partial(kind, str(self.healed), **changes)

    def drive(self, pool: Any = None, task: Any = None, **settings: Any) -> bulk.Progress:
        """Do what is left; `task` makes a process's task."""
        pool, task = pool or PoolHere(), task or self.make_task()
        return bulk.drive(self._run(settings), pool, task, taken(settings), **settings)

    def publish(self, **settings: Any) -> Manifest | None:
        return bulk.publish(self._run(settings), "explanations", describe, **settings)

    def complete(self, pool: Any = None, task: Any = None, **settings: Any) -> Manifest | None:
        pool, task = pool or PoolHere(), task or self.make_task()
        run, options = self._run(settings), taken(settings)
        return bulk.complete(run, pool, task, "explanations", describe, options, **settings)

    def _run(self, settings: dict[str, Any]) -> bulk.BulkRun:
        """Return the run with the `clock` of the settings, which loses it."""
        return replace(self.run, clock=settings.pop("clock", self.run.clock))

    def published(self, version: int | None = None) -> bulk.Published:
        return bulk.published(self.run.output.uri, version=version, storage=self.run.storage)

    def heal(self) -> None:
        """Let rows that failed succeed from now on."""
        self.healed.touch()


@dataclass(frozen=True)
class Toys(Place):
    """A place to plan toy runs; `patch` changes xrec until the test ends."""

    folder: Path
    patch: pytest.MonkeyPatch

    def __call__(self, items: str | Sequence[str] = "a b c", **settings: Any) -> Any:
        """Plan a toy run; `items` are names separated by spaces, or a list."""
        names = items.split() if isinstance(items, str) else items
        return toy_run(self, self.folder, names, **settings)

    def in_parts(self, part_bytes: int) -> None:
        """Make tables of several files, written by this process even if Ray was started."""
        self.patch.setattr("xrec.bulk.publisher.PART_BYTES", part_bytes)
        self.patch.setattr("xrec.processes.num_cpus", lambda: 0)

    def at(self, name: str) -> "Toys":
        """Return the same at another place, below this one."""
        return replace(self, uri=f"{self.uri}/{name}")


def taken(settings: dict[str, Any]) -> bulk.DriveOptions:
    """Return the settings that are fields of `DriveOptions`, after removing them."""
    names = [field.name for field in fields(bulk.DriveOptions) if field.name in settings]
    return bulk.DriveOptions(**{name: settings.pop(name) for name in names})


def describe(summary: bulk.Summary) -> tuple[Mapping[str, str], Mapping[str, Any]]:
    counts = {"explanations": "num_ok", "failed": "num_failed"}
    return counts, {"failed_by_reason": dict(summary.failed)}


def toy_run(
    place: Place, folder: Path, items: Sequence[str] = "abc", num_users: int = 12, **settings: Any
) -> Toy:
    """Plan a run of every user with every item."""
    run = bulk.open_run(toy_request(place, items, num_users, **settings))
    return Toy(run, sorted(toy_rows(items, num_users)), folder / "healed")


def toy_request(
    place: Place, items: Sequence[str] = "abc", num_users: int = 12, **settings: Any
) -> bulk.RunRequest:
    """Return the request of a toy run whose input has some rows twice."""
    rows, keys = toy_rows(items, num_users), settings.get("format", FORMAT).keys
    defaults: dict[str, Any] = {
        "format": FORMAT,
        "identity": IDENTITY,
        "batches": lambda: [batch_of(rows, keys), batch_of(rows[:5], keys)],
        "listing": {"rows.parquet": ["1", str(len(rows))]},
        "rows_per_chunk": 6,
        "storage": place.storage,
    }
    return bulk.RunRequest(place.uri, **{**defaults, **settings})


def toy_rows(items: Sequence[str] = "abc", num_users: int = 12) -> list[tuple[str, str]]:
    return [(f"u-{number}", item) for number in range(num_users) for item in items]


def batch_of(
    rows: Sequence[tuple[str, str]], keys: tuple[str, ...] = FORMAT.keys
) -> tuple[pa.Table, pa.Table]:
    """Return good rows, and no rejected ones."""
    columns = {name: [row[place] for row in rows] for place, name in enumerate(keys)}
    return bulk.clean_keys(pa.table(columns), keys, file="rows", first_line=1)


def rows_of(
    table: bulk.Published, status: str | None = None, keys: tuple[str, ...] = FORMAT.keys
) -> list[tuple[str, ...]]:
    """Return the keys of all rows, sorted, with duplicates."""
    rows = table.dataset(status=status).to_table(columns=list(keys)).to_pylist()
    return sorted((*row.values(),) for row in rows)


def stopped_after(num_chunks: int, error: type[BaseException] = KeyboardInterrupt) -> PoolHere:
    """Return a pool whose driver is stopped after this many chunks."""

    def before(chunk: int) -> None:
        if len(pool.done) > num_chunks:
            pool.done.pop()
            raise error

    pool = PoolHere(before=before)
    return pool


def kill(toy: Toy, num_chunks: int, holder: str = "", term: timedelta = TERM) -> None:
    """Kill a driver after this many chunks, so that it reports neither its end nor its counts.

    holder: its name, by default this process's. term: how long it counts as alive.
    """
    with pytest.raises(Killed):
        toy.drive(stopped_after(num_chunks, Killed))
    last = read_progress(toy.run.folder)
    lease = {"holder": holder or last.holder, "expires_at": last.written_at + term}
    write_progress(toy.run, last.model_copy(update=lease))
    (toy.run.folder / "counted.json").delete()


def texts_of(toy: Toy, version: int | None = None) -> dict[tuple[str, str], str]:
    """Return the text of each row that succeeded."""
    rows = toy.published(version).dataset().to_table().to_pylist()
    assert len({(row["user"], row["item"]) for row in rows}) == len(rows)
    return {(row["user"], row["item"]): row["text"] for row in rows}


def table_at(place: Place) -> deltalake.DeltaTable:
    """Open the table as another program does."""
    return deltalake.DeltaTable(place.uri, storage_options=place.location.delta_options())


def commit_once(
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[], object] = lambda: None,
    after: Callable[[], object] = lambda: None,
) -> None:
    """Call functions before and after a publisher's next commit."""
    commit, around = publisher.commit_files, [(before, after)]

    def committed(*arguments: Any) -> bool:
        first, last = around.pop() if around else (lambda: None, lambda: None)
        first()
        made = commit(*arguments)
        last()
        return made

    monkeypatch.setattr(publisher, "commit_files", committed)


def files_of(toy: Toy) -> list[str]:
    """Return the files of the newest version, in the table's order."""
    return toy.published().log.files(toy.published().version)["path"].to_pylist()


def finished(toys: Toys, items: str = "a odd-1", **settings: Any) -> Toy:
    """Publish a run, and once more with a retry."""
    toy = toys(items, **settings)
    toy.complete()
    toy.heal()
    toy.complete(retry=["odd"])
    return toy


@dataclass(frozen=True)
class CarryingTask(ToyTask):
    """Carries over all rows but those of item `b`."""

    def why_again(self, earlier: pa.Table) -> pa.Array:
        assert earlier.schema.equals(self.format.table_schema)
        return pc.if_else(pc.equal(earlier["item"], "b"), "a b", pa.scalar(None, pa.string()))


def drive_carrying(toy: Toy, pool: Any = None, **changes: Any) -> bulk.Progress:
    return toy.drive(pool, toy.make_task(CarryingTask, **changes))
