"""A driver of a toy run, or its upkeep, in a process that a test can stop, wake, kill and double.

    python -m tests.xrec.bulk.chaos_driver FOLDER NAME RUN drive [REASON ...]
    python -m tests.xrec.bulk.chaos_driver FOLDER NAME RUN upkeep

`drive` takes the run over whoever is at work, retries rows that failed for the reasons, and ends
when all is done; when another driver took the run over, it waits until that one is dead. Its
actors are those of the Ray cluster at RAY_ADDRESS, or one in the same process. `upkeep` compacts
and vacuums the run whenever it is finished, until the file `end` is there. The place of the output
is in the environment (tests.xrec.table.driver), and `chaos.json` in FOLDER has the sizes.
"""

import json
import logging
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cluster.connect import ensure_ray
from tests.xrec.bulk.toy_run import (
    FORMAT,
    IDENTITY,
    PoolHere,
    Toy,
    ToyTask,
    batch_of,
    die,
    die_here,
)
from tests.xrec.table.conftest import Place
from tests.xrec.table.driver import place_here
from xrec.bulk import ActorPool, Pool, backoff, compact, drive, ledger, open_run, vacuum
from xrec.config.shared import RayConfig
from xrec.errors import LeaseError, LostTableError, StorageError, TableError
from xrec.table import data_file, writer
from xrec.table import vacuum as vacuum_module
from xrec.table.log import Log

NOT_GOOD = "stale"
_LOST_ANSWERS = 0.05
"""The share of commits that fail, half of them after they were written."""


@dataclass(frozen=True)
class Sizes:
    """How large the runs are. Of each user there are five pairs.

    killers: one of so many users has a pair that kills its process.
    old_seconds: files older than this are not added; files are young 6 seconds longer.
    retention_seconds: of versions.
    """

    num_users: int = 40
    killers: int = 4
    rows_per_chunk: int = 5
    seconds_per_chunk: float = 0.3
    old_seconds: float = 8.0
    retention_seconds: float = 20.0

    @classmethod
    def read(cls, folder: Path) -> "Sizes":
        """What `write` wrote."""
        return cls(**json.loads((folder / "chaos.json").read_text()))

    def write(self, folder: Path) -> None:
        """Tell the processes of these sizes."""
        (folder / "chaos.json").write_text(json.dumps(self.__dict__))

    def rows(self, num_users: int) -> list[tuple[str, str]]:
        """The pairs of the first users."""
        return [
            (f"u-{number}", item)
            for number in range(num_users)
            for item in (
                "a",
                "odd-1",
                "b" if number % 3 else NOT_GOOD,
                "c",
                "d" if number % self.killers else "kill-2",
            )
        ]


class ChaosTask(ToyTask):
    """A toy task that finds rows of one item no longer good."""

    def is_still_good(self, earlier: pa.Table) -> pa.Array:
        """See CarryingTask."""
        return pc.not_equal(earlier["item"], NOT_GOOD)


def planned(place: Place, folder: Path, name: str) -> Toy:
    """The run `main`, or `later`, which carries its rows over and has more users."""
    sizes = Sizes.read(folder)
    rows = sizes.rows(sizes.num_users if name == "main" else sizes.num_users * 5 // 4)
    run = open_run(
        f"{place.uri}/{name}",
        IDENTITY,
        FORMAT,
        lambda: [batch_of(rows), batch_of(rows[:5])],
        listing={"rows.parquet": ["1", "2"]},
        rows_per_chunk=sizes.rows_per_chunk,
        carry_from=None if name == "main" else f"{place.uri}/main",
        storage=place.storage,
    )
    return Toy(run, sorted(rows), folder / "healed")


def shorten_times(sizes: Sizes) -> None:
    """Let what takes hours and days take seconds, and commits fail now and then."""
    ledger.COMMIT_SECONDS = 0.05
    ledger.TERM = timedelta(seconds=6)
    ledger._HEARTBEAT_SECONDS = 2.0
    for module in (backoff, ledger, writer):
        module._WAITS_SECONDS = (0.1, 0.3, 1.0)  # type: ignore[attr-defined]
    writer.CHECKPOINT_INTERVAL = 7
    writer.timedelta = lambda **units: timedelta(0)  # type: ignore[attr-defined, assignment, misc]
    data_file.OLDEST_ADD = timedelta(seconds=sizes.old_seconds)
    vacuum_module.YOUNG = timedelta(seconds=sizes.old_seconds + 6)


def lose_answers(draw: random.Random) -> None:
    """Let some commits fail, with or without having been written."""
    create = Log.create

    def create_badly(log: Log, version: int, commit: Any, actions: Any) -> bool:
        chance = draw.random()
        if chance < _LOST_ANSWERS / 2:
            raise StorageError("the store did not take the commit")
        is_created = create(log, version, commit, actions)
        if chance < _LOST_ANSWERS:
            raise StorageError("the store took the commit, and the answer was lost")
        return is_created

    Log.create = create_badly  # type: ignore[method-assign]


def drive_to_the_end(toy: Toy, name: str, reasons: list[str], pool: Callable[[], Pool]) -> None:
    """Take the run over and do what is left; begin again when the store fails for longer.

    Once another driver took the run over, wait until that one is dead.
    """
    take_over = True
    while True:
        try:
            drive(toy.run, pool(), holder=name, retry=reasons, take_over=take_over)
            return
        except LostTableError:
            take_over = False
        except LeaseError:
            time.sleep(0.5)
        except StorageError:
            logging.getLogger("xrec").exception("the store fails")


def keep_up(toy: Toy, name: str, sizes: Sizes, end: Path) -> None:
    """Compact and vacuum whenever the run is finished."""
    retention = timedelta(seconds=sizes.retention_seconds)
    draw = random.Random(name)
    while not end.exists():
        time.sleep(draw.random())
        try:
            if draw.random() < 0.5:
                compact(toy.run, holder=name, target_bytes=20_000)
            else:
                vacuum(toy.run, holder=name, retention=retention, log_retention=retention)
        except (LeaseError, StorageError, TableError) as error:
            logging.getLogger("xrec").info("%s", error)


def pool_here(toy: Toy, name: str, seconds: float) -> PoolHere:
    """An actor in this process."""
    draw = random.Random(name)
    task = ChaosTask(str(toy.healed), die_here)
    return PoolHere(
        toy.run.worker_settings(lambda: task),
        before=lambda work: time.sleep(2 * draw.random() * seconds),
    )


def pool_on_ray(toy: Toy, seconds: float) -> ActorPool:
    """Actors of the cluster."""
    task = ChaosTask(str(toy.healed), die, seconds)
    return ActorPool(toy.run.worker_settings(lambda: task), num_actors=3, cpus_per_actor=0.5)


def main(folder: Path, name: str, run: str, what: str, reasons: list[str]) -> None:
    """The program."""
    logging.basicConfig(level=logging.INFO)
    sizes = Sizes.read(folder)
    shorten_times(sizes)
    toy = planned(place_here(), folder, run)
    lose_answers(random.Random(name))
    if what == "upkeep":
        keep_up(toy, name, sizes, folder / "end")
        return
    seconds = sizes.seconds_per_chunk
    if "RAY_ADDRESS" not in os.environ:
        here = partial(pool_here, toy, name, seconds)
        drive_to_the_end(toy, name, reasons, here)
        return
    with ensure_ray(RayConfig()):
        on_ray = partial(pool_on_ray, toy, seconds)
        drive_to_the_end(toy, name, reasons, on_ray)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:5], sys.argv[5:])
