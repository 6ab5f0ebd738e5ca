"""Commands on the runs of one table, each in a process that a test can stop, wake, kill and double.

Each row says of which run and plan it is, and each attempt makes another text. A command that ends
with an XRecError has the exit code `REFUSED`, and its log ends with that error.
"""

import json
import logging
import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import deltalake
from deltalake.exceptions import DeltaError

from cluster.connect import ensure_ray
from tests.world.here import Place, PoolHere
from tests.xrec.bulk import toy_run
from tests.xrec.bulk.toy_run import IDENTITY, Toy, die
from xrec import bulk
from xrec.bulk import driver, parts
from xrec.bulk.beat import Clock
from xrec.bulk.work.pool import Pool, RayPool
from xrec.config.shared import RayConfig
from xrec.errors import ArtifactNotFoundError, TableError, XRecError
from xrec.storage import location
from xrec.storage.delta import open_log
from xrec.storage.forgotten import Forgotten

ITEMS = ("a", "odd-1", "b", "dull-2", "c")
FORMAT = replace(toy_run.FORMAT, keys=("user_id", "item_id"))  # only a user_id can be forgotten
REFUSED, INTERRUPTED = 3, 130
KEY = b"k" * 32


@dataclass(frozen=True)
class Setting:
    """What all commands of a test have in common.

    folder: where they log. address: of a Ray cluster; None for a pool in the process.
    max_actors: of a pool on Ray.
    """

    place: Place
    folder: Path
    num_users: int
    rows_per_chunk: int
    seconds_per_chunk: float
    address: str | None = None
    max_actors: int = 2

    def num_users_of(self, run: str) -> int:
        """The run `main` has all users, each other one half of them."""
        return self.num_users if run == "main" else self.num_users // 2

    def rows(self, run: str) -> list[tuple[str, str]]:
        users = range(self.num_users_of(run))
        return sorted((f"u-{number}", item) for number in users for item in ITEMS)

    def note(self, what: str, rows: Sequence[Mapping[str, str]]) -> None:
        """Say which rows, by some of their keys, a command takes down, has taken down or lifts."""
        with (self.folder / what).open("a") as file:
            file.write("".join(f"{json.dumps(row)}\n" for row in rows))

    def noted(self, what: str) -> set[tuple[str, str]]:
        """The rows that were noted so."""
        file = self.folder / what
        lines = file.read_text().splitlines() if file.exists() else []
        return {pair for line in lines for pair in pairs_of(json.loads(line))}

    def open(self, run: str) -> Toy:
        return toy_run.toy_run(
            self.place,
            self.folder,
            ITEMS,
            format=FORMAT,
            num_users=self.num_users_of(run),
            rows_per_chunk=self.rows_per_chunk,
            identity=IDENTITY.model_copy(update={"config": {"run": run}}),
        )


def pairs_of(row: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The pairs that a row of a takedown names: one, or all of a user's."""
    items = [row["item_id"]] if "item_id" in row else ITEMS
    return ((row["user_id"], item) for item in items)


def _complete(setting: Setting, run: str, republish: bool, retry: tuple[str, ...]) -> None:
    ray = None if setting.address is None else ensure_ray(RayConfig(address=setting.address))
    with ray or nullcontext():
        toy = setting.open(run)
        mark = f"{toy.run.record.run} {toy.run.record.nonce}"
        seconds = setting.seconds_per_chunk / setting.rows_per_chunk
        task = toy.make_task(kill=die, mark=mark, seconds=seconds, format=FORMAT)
        clock = Clock(seconds_between_signs=1.0, seconds_between_looks=0.5)
        toy.complete(_pool(setting), task, republish=republish, retry=retry, clock=clock)


def _pool(setting: Setting) -> Pool:
    """A pool; those in processes have an order of their own, so that drivers share the work."""
    if setting.address is None:
        return PoolHere(order=lambda chunks: random.sample(chunks, len(chunks)))
    return RayPool(setting.max_actors, min_actors=1, cpus=0.5)


def _rollback(setting: Setting, *_: object) -> None:
    log = open_log(setting.place.location)
    if log is not None:
        version = random.randint(0, log.version)
        bulk.rollback(setting.place.uri, version, setting.place.storage)


def _takedown(setting: Setting, *_: object) -> None:
    """Take a pair down, or all of a user's."""
    user = {"user_id": f"u-{random.randrange(setting.num_users)}"}
    row = random.choice([user, {**user, "item_id": random.choice(ITEMS)}])
    _take_down(setting, [row], rows=[row])


def _take_down(setting: Setting, named: Sequence[Mapping[str, str]], **what: Any) -> None:
    setting.note("asked", named)
    bulk.take_down(setting.place.uri, reason="chaos", storage=setting.place.storage, **what)
    setting.note("done", named)


def _forget(setting: Setting, *_: object) -> None:
    """Forget one or two users; no entry of before names them then."""
    users = [f"u-{random.randrange(setting.num_users)}" for _ in range(2)]
    people = Forgotten(KEY, frozenset(map(Forgotten(KEY).hash_of, users)))
    _take_down(setting, [{"user_id": each} for each in users], forgotten=people)


def _audit(setting: Setting, *_: object) -> None:
    """Take down what a new check would refuse of the texts that are published."""
    uri, storage = setting.place.uri, setting.place.storage
    with suppress(ArtifactNotFoundError):
        table = bulk.published(uri, storage=storage)
        rows = table.dataset().to_table(columns=[*FORMAT.keys]).to_pylist()
        if bad := random.sample(rows, min(20, len(rows))):
            _take_down(setting, bad, rows=bad)


def _lift(setting: Setting, *_: object) -> None:
    entries = bulk.read_takedowns(setting.place.location).active.items()
    if some := [(number, entry.rows) for number, entry in entries if entry.rows]:
        number, rows = random.choice(some)
        setting.note("lifted", rows)
        bulk.lift(setting.place.uri, number, "chaos", setting.place.storage)


def _restart(setting: Setting, *_: object) -> None:
    with suppress(TableError):  # no takedown is gone
        bulk.restart_takedowns(setting.place.uri, "chaos", setting.place.storage)


def _theirs(setting: Setting, do: Callable[[deltalake.DeltaTable], object]) -> None:
    """Do what another program does, which has errors of its own."""
    location = setting.place.location
    try:
        table = deltalake.DeltaTable(location.shared_uri, storage_options=location.delta_options())
        location.exists()  # others may go on in between
        do(table)
    except (DeltaError, OSError) as error:
        print(f"{type(error).__name__}: {error}")  # noqa: T201


def main(
    setting: Setting,
    name: str,
    what: str,
    run: str,
    *,
    republish: bool = False,
    retry: tuple[str, ...] = (),
) -> None:
    """The process: it logs to `name`.log."""
    log = os.open(setting.folder / f"{name}.log", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(log, stream)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line does
    location._WAITS_SECONDS = (0.1, 0.3, 1.0)
    driver.refuse_live_driver = lambda *_, **__: None  # as if others had been taken for dead
    parts.PART_BYTES = 1 << 15  # several files a version
    try:
        COMMANDS[what](setting, run, republish, retry)
    except XRecError as error:
        print(f"{type(error).__name__}: {error}", flush=True)  # noqa: T201
        os._exit(REFUSED)
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)


_WEEK = timedelta(hours=168)
COMMANDS: dict[str, Callable[..., object]] = {
    "complete": _complete,
    "publish": lambda at, run, republish, retry: at.open(run).publish(republish=republish),
    "empty": lambda at, *_: bulk.empty(at.place.uri, at.place.storage),
    "rollback": _rollback,
    "takedown": _takedown,
    "audit": _audit,
    "lift": _lift,
    "forget": _forget,
    "restart": _restart,
    "vacuum": lambda at, *_: bulk.vacuum(at.place.uri, _WEEK, at.place.storage),
    "their_vacuum": lambda at, *_: _theirs(
        at, lambda table: table.vacuum(dry_run=False, full=True)
    ),
    "optimize": lambda at, *_: _theirs(at, lambda table: table.optimize.compact()),
    "z_order": lambda at, *_: _theirs(at, lambda table: table.optimize.z_order(["item_id"])),
}
