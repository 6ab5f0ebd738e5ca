"""Processes that work on one table, random blows to them, and a reader of all of its versions.

Each row records its run and plan, and each attempt makes another text. A command that ends with an
XRecError has the exit code `REFUSED`, and its log ends with the error's code and message.
"""

import json
import logging
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import deltalake
from deltalake.exceptions import DeltaError

from tests.world.cluster import LocalCluster, running
from tests.world.here import Place, PoolHere
from tests.xrec.bulk import toy_run
from tests.xrec.bulk.toy_run import IDENTITY, Toy
from xrec import bulk
from xrec.bulk.log import open_log
from xrec.bulk.run import RUNS, Clock, records
from xrec.bulk.takedown import Entry, Takedowns
from xrec.bulk.upkeep import delete_superseded
from xrec.cluster import ensure_ray, environment
from xrec.config import RayConfig
from xrec.errors import ArtifactNotFoundError, TableError, XRecError
from xrec.processes import Pool, RayPool
from xrec.storage import Forgotten, requests

ITEMS = ("a", "odd-1", "b", "dull-2", "c")
FORMAT = replace(toy_run.FORMAT, keys=("user_id", "item_id"))  # only a user_id can be forgotten
REFUSED, INTERRUPTED = 3, 130
KEY = b"k" * 32
WORKER = "DoWork"  # part of the name of a process on Ray that does chunks


@dataclass(frozen=True)
class Setting:
    """The settings that all commands of a test share.

    folder: of their logs. address: of a Ray cluster; None for a pool in each process. max_actors:
    of a pool on Ray.
    """

    place: Place
    folder: Path
    num_users: int
    rows_per_chunk: int
    seconds_per_chunk: float
    address: str | None = None
    max_actors: int = 2

    def num_users_of(self, run: str) -> int:
        """Return how many users a run has: all in `main`, half of them in others."""
        return self.num_users if run == "main" else self.num_users // 2

    def rows(self, run: str) -> list[tuple[str, str]]:
        users = range(self.num_users_of(run))
        return sorted((f"u-{number}", item) for number in users for item in ITEMS)

    def note(self, what: str, rows: Sequence[Mapping[str, str]]) -> None:
        """Note rows, by some of their keys, that a command takes down, has taken down or lifts."""
        with (self.folder / what).open("a") as file:
            file.write("".join(f"{json.dumps(row)}\n" for row in rows))

    def noted(self, what: str) -> set[tuple[str, str]]:
        """Return the pairs noted under this name."""
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
    """Return the pairs that a row of a takedown names: one, or all of a user."""
    items = [row["item_id"]] if "item_id" in row else ITEMS
    return ((row["user_id"], item) for item in items)


def _complete(
    setting: Setting, draw: random.Random, run: str, republish: bool, retry: tuple[str, ...]
) -> None:
    ray = None if setting.address is None else ensure_ray(RayConfig(address=setting.address))
    with ray or nullcontext():
        toy = setting.open(run)
        mark = f"{toy.run.record.run} {toy.run.record.nonce}"
        seconds = setting.seconds_per_chunk / setting.rows_per_chunk
        task = toy.make_task(mark=mark, seconds=seconds, format=FORMAT)
        clock = Clock(seconds_between_signs=1.0, seconds_between_looks=0.5)
        toy.complete(_pool(setting, draw), task, republish=republish, retry=retry, clock=clock)


def _pool(setting: Setting, draw: random.Random) -> Pool:
    """Return a pool; without Ray its order is random, so that concurrent drivers share the work."""
    if setting.address is None:
        return PoolHere(order=lambda chunks: draw.sample(chunks, len(chunks)))
    return RayPool(setting.max_actors, min_actors=1, cpus=0.5)


def _rollback(setting: Setting, draw: random.Random, *_: object) -> int | None:
    if (log := open_log(setting.place.location)) is None:
        return None
    version = draw.randint(0, log.version)
    bulk.rollback(setting.place.uri, version, setting.place.storage)
    return version


def _takedown(setting: Setting, draw: random.Random, *_: object) -> None:
    """Take down all pairs of a user, or some pairs, as an audit does."""
    rows = [{"user_id": f"u-{draw.randrange(setting.num_users)}"}]
    if draw.random() < 0.7:
        pairs = draw.sample(setting.rows("main"), draw.choice([1, 20]))
        rows = [dict(zip(FORMAT.keys, pair, strict=True)) for pair in pairs]
    _take_down(setting, rows, rows=rows)


def _take_down(setting: Setting, named: Sequence[Mapping[str, str]], **what: Any) -> None:
    setting.note("asked", named)
    bulk.take_down(setting.place.uri, reason="chaos", storage=setting.place.storage, **what)
    setting.note("done", named)


def _forget(setting: Setting, draw: random.Random, *_: object) -> None:
    """Forget one or two users, whom no earlier entry may name from then on."""
    users = [f"u-{draw.randrange(setting.num_users)}" for _ in range(2)]
    people = Forgotten(KEY, frozenset(map(Forgotten(KEY).hash_of, users)))
    _take_down(setting, [{"user_id": each} for each in users], forgotten=people)


def _lift(setting: Setting, draw: random.Random, *_: object) -> None:
    entries = bulk.read_takedowns(setting.place.location).active.items()
    if some := [(number, entry.rows) for number, entry in entries if entry.rows]:
        number, rows = draw.choice(some)
        setting.note("lifted", rows)
        bulk.lift(setting.place.uri, number, "chaos", setting.place.storage)


def _restart(setting: Setting, *_: object) -> None:
    with suppress(TableError):  # no takedown is missing
        bulk.restart_takedowns(setting.place.uri, "chaos", setting.place.storage)


def _theirs(setting: Setting, do: Callable[[deltalake.DeltaTable], object]) -> None:
    """Do what another program does, and print its errors."""
    location = setting.place.location
    try:
        table = deltalake.DeltaTable(location.uri, storage_options=location.delta_options())
        location.exists()  # in test_turns, other commands may run here
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
    seed: int = 0,
) -> None:
    """Run a command in a process of its own, which logs to `name`.log."""
    log = os.open(setting.folder / f"{name}.log", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(log, stream)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for number in (signal.SIGTERM, signal.SIGINT):  # background jobs of a shell ignore SIGINT
        signal.signal(number, signal.default_int_handler)
    requests.WAITS_SECONDS = (0.1, 0.3, 1.0)
    bulk.driver.refuse_live_driver = lambda *_, **__: None  # as if others had died
    bulk.publisher.PART_BYTES = 1 << 15  # several files a version
    try:
        COMMANDS[what](setting, random.Random(seed), run, republish, retry)
    except XRecError as error:
        print(f"{error.code} {error}", flush=True)  # noqa: T201
        os._exit(REFUSED)
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)


COMMANDS: dict[str, Callable[..., object]] = {
    "complete": _complete,
    "publish": lambda at, _, run, republish, retry: at.open(run).publish(republish=republish),
    "empty": lambda at, *_: bulk.empty(at.place.uri, at.place.storage),
    "rollback": _rollback,
    "takedown": _takedown,
    "lift": _lift,
    "forget": _forget,
    "restart": _restart,
    "delete_runs": lambda at, *_: bulk.delete_runs(at.place.uri, at.place.storage),
    "vacuum": lambda at, *_: bulk.vacuum(at.place.uri, timedelta(hours=1), at.place.storage),
    "their_vacuum": lambda at, *_: _theirs(
        at, lambda table: table.vacuum(dry_run=False, full=True)
    ),
    "optimize": lambda at, *_: _theirs(at, lambda table: table.optimize.compact()),
    "z_order": lambda at, *_: _theirs(at, lambda table: table.optimize.z_order(["item_id"])),
}


KINDS = ("kill", "stop", "retry", "other", *(COMMANDS.keys() - {"complete", "delete_runs"}))
REASONS = ("odd", "dull", "task_error")
_CODES_OF_THE_KILLED = (-signal.SIGKILL, -signal.SIGTERM, INTERRUPTED)
# Codes of refusals that other commands may cause.
_REFUSALS = ("table_changed", "taken_back", "table_changes", "no_table", "cannot_be_restored")
_REFUSALS += ("lifted_meanwhile", "unknown_takedown", "driver_at_work")
LOSSES = ("plan_replaced", "plan_deleted", "broken_plan", "pass_deleted", "lost_result")
LOSSES += ("not_found", "no_version", "store_failed", "no_conditional_writes")
LOSSES += ("broken_log", "other_files", "takedowns_gone")
"""Codes of errors of commands whose output is deleted."""


@dataclass
class Command:
    """A process. wakes_at: the number of blows after which it is resumed, if it is suspended."""

    name: str
    process: BaseProcess
    wakes_at: int | None = None
    was_hit: bool = False

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has just ended."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)


@dataclass
class Chaos:
    """Starts commands on the runs of a table, and strikes them.

    num_blows: so far. was_deleted: whether the output was deleted by hand; has_lost: whether
    only its folder _xrec was, with runs and takedowns.
    """

    setting: Setting
    seed: int
    cluster: LocalCluster | None = None
    commands: list[Command] = field(default_factory=list)
    num_blows: int = 0
    was_deleted: bool = False
    has_lost: bool = False
    num_started: int = 0

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        if self.setting.address is None:
            self._processes = multiprocessing.get_context("forkserver")
            self._processes.set_forkserver_preload(["tests.xrec.bulk.chaos"])
        else:  # a fork server started earlier would lack the cluster's token
            self._processes = multiprocessing.get_context("spawn")

    def close(self) -> None:
        for each in self.commands:
            each.process.kill()
            each.process.join()

    def start(self, what: str, run: str = "main", **options: object) -> Command:
        self.num_started += 1
        seed = self.draw.getrandbits(32)
        name = f"{self.num_started:03d}-{what}-{run}"
        process = self._processes.Process(
            target=main, args=(self.setting, name, what, run), kwargs=options | {"seed": seed}
        )
        with environment({} if self.cluster is None else self.cluster.environment):
            process.start()
        self.commands.append(Command(name, process))
        return self.commands[-1]

    def strike(self, num_blows: int, seconds: tuple[float, float]) -> None:
        """Strike this many times, waiting in between; each round has every kind once."""
        order, kinds = random.Random(self.seed), list[str]()
        for self.num_blows in range(1, num_blows + 1):
            self._look_at_the_ended()
            while len(self._awake()) < (2 if self.cluster else self.draw.randint(2, 3)):
                self.start("complete", republish=self.draw.random() < 0.5)
            time.sleep(order.uniform(*seconds))
            if not kinds:
                kinds = [*sorted(KINDS), *["worker", "worker"] * bool(self.cluster)]
                order.shuffle(kinds)
            if (kind := kinds.pop()) in COMMANDS:
                self.start(kind, republish=self.draw.random() < 0.5)
            else:
                getattr(self, f"_{kind}")()
            self._wake(self.num_blows)

    def end(self, seconds: float) -> None:
        """Wait for all commands, then run one on `main` undisturbed, which must succeed."""
        self._wake()
        deadline = time.monotonic() + seconds
        for each in self.commands:
            each.process.join(max(1.0, deadline - time.monotonic()))
            assert each.process.exitcode is not None, f"{each.name} hangs: {self.log(each)}"
        self._look_at_the_ended()
        (self.setting.folder / "healed").touch()
        self.start("complete", republish=True, retry=REASONS)
        last = self.commands.pop()
        last.process.join(seconds)
        assert last.process.exitcode == 0, self.log(last)

    def _look_at_the_ended(self) -> None:
        """Check that no command ended with a traceback, or with an error that had no cause."""
        for each in [each for each in self.commands if each.process.exitcode is not None]:
            self.commands.remove(each)
            code = each.process.exitcode
            if code == REFUSED:
                why = self.log(each).splitlines()[-1]
                assert self.has_cause(why.partition(" ")[0]), f"{each.name}: {why}"
            elif not each.was_hit or code not in _CODES_OF_THE_KILLED:
                assert code == 0, f"{each.name} ended with {code}: {self.log(each)}"

    def has_cause(self, code: str) -> bool:
        """Return whether something that happened may have caused a refusal with this code."""
        if code in LOSSES and (self.was_deleted or self.has_lost):
            return True
        # A plan without rows whose takedown was lifted is replaced.
        return code in _REFUSALS or (code == "plan_replaced" and bool(self.setting.noted("lifted")))

    def log(self, command: Command) -> str:
        path = self.setting.folder / f"{command.name}.log"
        return path.read_text()[-3000:] if path.exists() else "killed before it started"

    def _awake(self) -> list[Command]:
        alive = [each for each in self.commands if each.process.exitcode is None]
        return [each for each in alive if each.wakes_at is None]

    def _wake(self, number: int | None = None) -> None:
        """Resume commands that were suspended long enough, or all of them."""
        for each in self.commands:
            if each.wakes_at is not None and (number is None or each.wakes_at <= number):
                each.send(signal.SIGCONT)
                each.wakes_at = None

    def _kill(self) -> None:
        if awake := self._awake():
            victim = self.draw.choice(awake)
            victim.was_hit = True
            victim.send(self.draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))

    def _stop(self) -> None:
        """Suspend a process for some blows."""
        if awake := self._awake():
            victim = self.draw.choice(awake)
            victim.send(signal.SIGSTOP)
            victim.wakes_at = self.num_blows + self.draw.randint(1, 4)

    def _retry(self) -> None:
        """Retry some rows, half of the time in vain."""
        healed = self.setting.folder / "healed"
        if self.draw.random() < 0.5:
            healed.touch()
        else:
            healed.unlink(missing_ok=True)
        reasons = tuple(self.draw.sample(REASONS, 2))
        self.start("complete", republish=self.draw.random() < 0.5, retry=reasons)

    def _other(self) -> None:
        """Start the run of another config, or continue it."""
        run = f"other-{self.draw.randrange(3)}"
        self.start("complete", run, republish=self.draw.random() < 0.5)

    def _worker(self) -> None:
        processes = [each for node in self.cluster.nodes for each in node.processes()]
        if workers := running(processes, WORKER):
            self.draw.choice(workers).kill()


class Reader:
    """Reads the newest version again and again until `is_ended` is set, and checks each one."""

    def __init__(self, chaos: Chaos):
        self._chaos = chaos
        self._texts: dict[tuple[str, ...], str] = {}
        self._rows: dict[str, list[tuple[str, str]]] = {}
        self._seen: tuple[str, int] | None = None
        self.is_ended = threading.Event()

    def read_on(self) -> None:
        while not self.is_ended.wait(0.05):
            self.look()

    def look(self, version: int | None = None) -> bulk.Published | None:
        """Read and check a version, by default the newest.

        Return None if nothing is published, or if it cannot be read after a deletion.
        """
        place, done = self._chaos.setting.place, self._chaos.setting.noted("done")
        try:
            table = bulk.published(place.uri, version=version, storage=place.storage)
            if version is None and not self._chaos.was_deleted:
                done -= self._chaos.setting.noted("lifted")
                assert not done & keys_of(table), (
                    f"version {table.version} shows what is taken down"
                )
            if version is not None or (table.log.id, table.version) != self._seen:
                self._check(table)
                self._seen = (table.log.id, table.version)
            return table
        except ArtifactNotFoundError:
            return None  # nothing is published, or it was emptied
        except (XRecError, OSError):
            if not self._chaos.was_deleted:
                raise
            return None

    def look_at_all(self) -> None:
        log = open_log(self._chaos.setting.place.location)
        for version in range(log.version + 1):
            self.look(version)
        honored = [log.takedowns(each) for each in range(log.version + 1) if log.is_sound(each)]
        assert honored == sorted(honored) or self._chaos.was_deleted

    def _check(self, table: bulk.Published) -> None:
        """Check that it has each row of one run and plan once, always with the same text.

        Rows that were taken down may be missing.
        """
        shown = table.log.shown(table.version)
        columns = ["user_id", "item_id", "text", "hint", "status"]
        rows = table.dataset(status=None).to_table(columns=columns).to_pydict()
        keys = list(zip(rows["user_id"], rows["item_id"], strict=True))
        run = table.manifest.config["run"]
        planned = self._rows.setdefault(run, self._chaos.setting.rows(run))
        assert len({*keys}) == len(keys), f"version {table.version} has rows twice"
        check_takedowns(self._chaos, table, {*keys}, {*planned})
        mark = f"{shown.run} {shown.nonce}"
        pairs = zip(rows["text"], rows["hint"], strict=True)
        marks = {hint or text.partition(",")[0] for text, hint in pairs}
        assert marks <= {mark}, f"version {table.version} of {mark} has rows of {marks}"
        counts = table.manifest.row_counts
        num_ok = rows["status"].count("ok")
        assert (counts["explanations"], counts["failed"]) == (num_ok, len(keys) - num_ok)
        dataset = table.dataset(status=None)
        for user in {*rows["user_id"][:5]}:
            num_found = table.find(dataset, "user_id", [user]).num_rows
            assert num_found == rows["user_id"].count(user), f"version {table.version} hides {user}"
        for key, text in zip(keys, rows["text"], strict=True):
            if text is not None:
                assert self._texts.setdefault((mark, *key), text) == text


def keys_of(table: bulk.Published, status: str | None = None) -> set[tuple[str, str]]:
    rows = table.dataset(status=status).to_table(columns=["user_id", "item_id"]).to_pydict()
    return {*zip(rows["user_id"], rows["item_id"], strict=True)}


def taken_down(setting: Setting, entries: Mapping[int, Entry]) -> set[tuple[str, str]]:
    """Return the pairs that the entries take down, by row or by forgotten user."""
    active = Takedowns(entries).active.values()
    pairs = {pair for entry in active for row in entry.rows for pair in pairs_of(row)}
    users = [f"u-{number}" for number in range(setting.num_users)]
    for people in (Forgotten(bytes.fromhex(e.key), frozenset(e.users)) for e in active if e.users):
        pairs |= {
            pair for user in users if people.has(user) for pair in pairs_of({"user_id": user})
        }
    return pairs


def check_takedowns(
    chaos: Chaos, table: bulk.Published, shown: set[tuple[str, str]], planned: set[tuple[str, str]]
) -> None:
    """Check that a version shows no row that it had to leave out, and lacks no other."""
    place, version = chaos.setting.place, table.version
    assert shown <= planned
    missing = planned - shown - chaos.setting.noted("asked")
    assert not missing, f"version {version} lacks {sorted(missing)[:3]}"
    if chaos.was_deleted or chaos.has_lost:
        return  # the version may honor another list
    entries, number = bulk.read_takedowns(place.location).entries, table.log.takedowns(version)
    gone = taken_down(chaos.setting, {n: each for n, each in entries.items() if n <= number})
    assert not shown & gone, f"version {version} shows {sorted(shown & gone)[:3]}"


def check_end(chaos: Chaos) -> None:
    """Check that `main` is published without what is taken down, and that no check complains."""
    place = chaos.setting.place
    table = bulk.published(place.uri, storage=place.storage)
    assert table.manifest.config == {"run": "main"}
    shown, planned = keys_of(table, "ok"), {*chaos.setting.rows("main")}
    check_takedowns(chaos, table, shown, planned)
    entries = bulk.read_takedowns(place.location).entries
    assert table.log.takedowns(table.version) == max(entries, default=0)
    gone = taken_down(chaos.setting, entries)
    assert shown == planned - gone or ((chaos.was_deleted or chaos.has_lost) and not shown & gone)
    for number, entry in entries.items():
        people = Forgotten(KEY, frozenset(entry.users))
        named = {row["user_id"] for n, e in entries.items() if n < number for row in e.rows}
        assert not any(map(people.has, named)), f"an entry before {number} names {named}"
    found = bulk.check_output(place.uri, place.storage)
    assert not [finding for finding in found if finding.severity == "error"], found


def check_garbage(chaos: Chaos) -> None:
    """Check which files are left if none is too recent to be deleted."""
    place = chaos.setting.place
    output, table = place.location, bulk.published(place.uri, storage=place.storage)
    options = {"retention_hours": 0, "enforce_retention_duration": False, "full": True}
    time.sleep(1.1)  # the store's times are whole seconds
    deltalake.DeltaTable(output.uri, storage_options=output.delta_options()).vacuum(
        dry_run=False, **options
    )
    delete_superseded(output, timedelta(0))
    live = table.log.shown(table.version).run
    wanted = {record.run: record.nonce for record in records(output)}
    assert {live} <= set(wanted) <= {live, next(records(output)).run}, (live, wanted)
    folders = [f"{RUNS}/{run}/{name}" for run, nonce in wanted.items() for name in (nonce, "run-")]
    folders += ["_delta_log/", "_xrec/takedowns/"]
    left = [file for file in output.files() if not file.startswith(tuple(folders))]
    wanted_files = set(table.log.files(table.version)["path"].to_pylist())
    assert set(left) == wanted_files, f"too many or too few: {sorted(wanted_files ^ set(left))}"
