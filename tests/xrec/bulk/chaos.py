"""Blows at the commands of toy runs on one table, and a reader of all of its versions."""

import multiprocessing
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.process import BaseProcess

import deltalake
import psutil

from cluster.connect import environment
from tests.local_cluster import LocalCluster, NodeProcess
from tests.xrec.bulk import chaos_driver
from tests.xrec.bulk.chaos_driver import INTERRUPTED, REFUSED, Setting, main
from xrec.bulk import Published, check_output, published, read_takedowns
from xrec.bulk.runs.run import RUNS, records
from xrec.bulk.takedown import Entry, Takedowns
from xrec.bulk.upkeep import clean
from xrec.errors import ArtifactNotFoundError, XRecError
from xrec.storage.delta import open_log

KINDS = ("kill", "stop", "retry", "publish", "empty", "rollback", "vacuum", "optimize", "other")
KINDS += ("takedown", "audit", "lift")
_REASONS = ("odd", "dull", "task_error")
_CODES_OF_THE_KILLED = (-signal.SIGKILL, -signal.SIGTERM, INTERRUPTED)
# Whatever commands do to a table, others may be refused for one of these.
_REFUSALS = (
    "came while this job was at work|took it back|the table changed 20 times|there is no table|"
    "cannot be restored|was lifted meanwhile"
)
# After them an output must be deleted once more.
_DAMAGES = "the Delta log cannot be used|holds other files"
# What commands say when someone deletes their output by hand.
_LOSSES = (
    "was deleted and made anew|was deleted while it was made|the plan is no longer whole|"
    f"the result of a chunk is gone|not found|pre-conditions|has no conditional writes|{_DAMAGES}"
)


@dataclass
class Command:
    """A process of `chaos_driver`. wakes_at: the number of blows after which it is to be woken."""

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

    blows: how many of each kind there were. refusals: of commands, by their beginning.
    was_deleted: whether the output was deleted by hand; then more may be seen. deletes: whether it
    may be.
    """

    setting: Setting
    seed: int
    cluster: LocalCluster | None = None
    deletes: bool = True
    commands: list[Command] = field(default_factory=list)
    blows: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    was_deleted: bool = False
    num_started: int = 0

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        if self.cluster is None:
            self._processes = multiprocessing.get_context("forkserver")
            self._processes.set_forkserver_preload(["tests.xrec.bulk.chaos_driver"])
        else:
            self._processes = multiprocessing.get_context("spawn")

    def close(self) -> None:
        for each in self.commands:
            each.process.kill()
            each.process.join()

    def start(self, what: str, run: str = "main", **options: object) -> Command:
        self.num_started += 1
        name = f"{self.num_started:03d}-{what}-{run}"
        process = self._processes.Process(
            target=main, args=(self.setting, name, what, run), kwargs=options
        )
        with environment({} if self.cluster is None else self.cluster.environment):
            process.start()
        self.commands.append(Command(name, process))
        return self.commands[-1]

    def strike(self, num_blows: int, seconds: tuple[float, float]) -> None:
        """Strike so many times, with waits in between; each kind comes in each round."""
        order, kinds = random.Random(self.seed), []
        for number in range(num_blows):
            self._look_at_the_ended()
            while len(self._awake()) < (2 if self.cluster else self.draw.randint(2, 3)):
                self.start("complete", republish=self.draw.random() < 0.5)
            time.sleep(order.uniform(*seconds))
            if not kinds:
                kinds = [*KINDS, *["delete"] * self.deletes]
                kinds += ["worker", "worker"] if self.cluster else []
                order.shuffle(kinds)
            kind = kinds.pop()
            print(f"{time.strftime('%X')} {number}: {kind}")  # noqa: T201
            getattr(self, f"_{kind}", lambda kind=kind: self.start(kind))()
            self.blows[kind] += 1
            self._wake(number)

    def end(self, seconds: float) -> None:
        """Let all commands end, then one on `main` that nothing disturbs; it must succeed."""
        self._wake()
        deadline = time.monotonic() + seconds
        for each in self.commands:
            each.process.join(max(1.0, deadline - time.monotonic()))
            assert each.process.exitcode is not None, f"{each.name} hangs: {self.log(each)}"
        self._look_at_the_ended()
        (self.setting.folder / "healed").touch()
        last = self._last(seconds)
        if last.process.exitcode == REFUSED and self._refusal(last) in _DAMAGES.split("|"):
            self._delete()
            self.blows["deleted again"] += 1
            last = self._last(seconds)
        assert last.process.exitcode == 0, self.log(last)

    def _last(self, seconds: float) -> Command:
        self.start("complete", republish=True, retry=_REASONS)
        last = self.commands.pop()
        last.process.join(seconds)
        return last

    def _look_at_the_ended(self) -> None:
        """See that no command ended with a traceback, or with an error that it had no cause for."""
        for each in [each for each in self.commands if each.process.exitcode is not None]:
            self.commands.remove(each)
            code = each.process.exitcode
            if code == REFUSED:
                self.refusals[self._refusal(each)] += 1
            elif not each.was_hit or code not in _CODES_OF_THE_KILLED:
                assert code == 0, f"{each.name} ended with {code}: {self.log(each)}"

    def _refusal(self, command: Command) -> str:
        """What a command was refused for; it must be something that had a cause."""
        why = self.log(command).splitlines()[-1]
        found = why_refused(why, self.was_deleted)
        assert found, f"{command.name}: {why}"
        return found

    def log(self, command: Command) -> str:
        path = self.setting.folder / f"{command.name}.log"
        return path.read_text()[-3000:] if path.exists() else "it was killed before it began"

    def _awake(self) -> list[Command]:
        alive = [each for each in self.commands if each.process.exitcode is None]
        return [each for each in alive if each.wakes_at is None]

    def _wake(self, number: int | None = None) -> None:
        """Wake those who slept for long enough; all of them without a number."""
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
        """Stop a process; it is woken when some more blows were struck."""
        if awake := self._awake():
            victim = self.draw.choice(awake)
            victim.send(signal.SIGSTOP)
            victim.wakes_at = sum(self.blows.values()) + self.draw.randint(1, 4)

    def _retry(self) -> None:
        """Retry some rows, which succeed every other time."""
        healed = self.setting.folder / "healed"
        if self.blows["retry"] % 2:
            healed.touch()
        else:
            healed.unlink(missing_ok=True)
        reasons = tuple(self.draw.sample(_REASONS, 2))
        self.start("complete", republish=self.draw.random() < 0.5, retry=reasons)

    def _publish(self) -> None:
        for _ in range(2):
            self.start("publish", republish=self.draw.random() < 0.5)

    def _vacuum(self) -> None:
        self.start(self.draw.choice(["vacuum", "their_vacuum"]))

    def _other(self) -> None:
        """Begin another config's run, or go on with it."""
        run = f"other-{self.blows['other'] // 2}"
        self.start("complete", run, republish=self.draw.random() < 0.5)

    def _delete(self) -> None:
        self.was_deleted = True
        if self.draw.random() < 0.5:
            self._stop()
        place = self.setting.place.location
        files = place.files()
        if self.draw.random() < 0.5:
            self.draw.shuffle(files)
        for file in files:
            with suppress(FileNotFoundError):
                place.fs.rm_file((place / file).path)
        for folder, _, _ in os.walk(place.path, topdown=False):  # there are none on S3
            with suppress(OSError):
                os.rmdir(folder)

    def _worker(self) -> None:
        if workers := [each for node in self.cluster.nodes for each in workers_on(node)]:
            self.draw.choice(workers).kill()


def why_refused(error: str, was_deleted: bool) -> str:
    """What of an error says why a command was refused; "" if it must not be refused for that."""
    found = re.search(f"{_REFUSALS}|{_LOSSES}" if was_deleted else _REFUSALS, error)
    return found.group() if found else ""


def workers_on(node: NodeProcess) -> list[psutil.Process]:
    """The processes of a node of Ray that do chunks."""
    found = []
    for each in node.processes():
        with suppress(psutil.NoSuchProcess):
            found += [each] if "DoChunks" in " ".join(each.cmdline()) else []
    return found


class Reader:
    """Opens the newest version all the while, and raises an error about what must not be.

    num_versions: how many versions it read. is_ended: tells it to stop.
    """

    def __init__(self, chaos: Chaos):
        self._chaos = chaos
        self._texts: dict[tuple[str, ...], str] = {}
        self._rows: dict[str, list[tuple[str, str]]] = {}
        self._seen: tuple[str, int] | None = None
        self.num_versions = 0
        self.is_ended = threading.Event()

    def read_on(self) -> None:
        """Read until the end, or until something is wrong."""
        while not self.is_ended.wait(0.05):
            self.look()

    def look(self, version: int | None = None) -> None:
        """Read a version, by default the newest one, and see that it is right."""
        place = self._chaos.setting.place
        try:
            table = published(place.uri, version=version, storage=place.storage)
            if version is not None or (table.log.id, table.version) != self._seen:
                self._check(table)
                self._seen = (table.log.id, table.version)
                self.num_versions += 1
        except ArtifactNotFoundError:
            return  # nothing is published, or it was emptied
        except (XRecError, OSError):
            if not self._chaos.was_deleted:
                raise

    def look_at_all(self) -> None:
        log = open_log(self._chaos.setting.place.location)
        for version in range(log.version + 1):
            self.look(version)
        heeded = [log.takedowns(each) for each in range(log.version + 1) if log.is_sound(each)]
        assert heeded == sorted(heeded) or self._chaos.was_deleted

    def _check(self, table: Published) -> None:
        """Each row of one run and plan is there once, with the text that it has for ever, but for
        those that were taken down.
        """
        commit = table.log.decided_by(table.version)
        columns = ["user", "item", "text", "hint", "status"]
        rows = table.dataset(status=None).to_table(columns=columns).to_pydict()
        keys = list(zip(rows["user"], rows["item"], strict=True))
        run = table.manifest.config["run"]
        planned = self._rows.setdefault(run, self._chaos.setting.rows(run))
        assert len({*keys}) == len(keys), f"version {table.version} has rows twice"
        check_takedowns(self._chaos, table, {*keys}, {*planned})
        mark = f"{commit.run} {commit.nonce}"
        said = zip(rows["text"], rows["hint"], strict=True)
        marks = {hint or text.partition(",")[0] for text, hint in said}
        assert marks == {mark}, f"version {table.version} of {mark} has rows of {marks}"
        counts = table.manifest.row_counts
        num_ok = rows["status"].count("ok")
        assert (counts["explanations"], counts["failed"]) == (num_ok, len(keys) - num_ok)
        for key, text in zip(keys, rows["text"], strict=True):
            if text is not None:
                assert self._texts.setdefault((mark, *key), text) == text


def check_takedowns(
    chaos: Chaos, table: Published, shown: set[tuple[str, str]], planned: set[tuple[str, str]]
) -> None:
    """Nothing is shown that is on the list as far as the version heeds it, and only rows that were
    on it some time are missing.
    """
    place = chaos.setting.place
    entries = read_takedowns(place.location).entries
    number = table.log.takedowns(table.version)
    heeded = {n: entry for n, entry in entries.items() if n <= number}
    if chaos.was_deleted and (
        [*heeded] != [*range(1, number + 1)] or open_log(place.location).id != table.log.id
    ):
        return  # the list is another one than the version heeded

    def rows_of(some: Iterable[Entry]) -> set[tuple[str, str]]:
        items, named = chaos_driver.ITEMS, (row for entry in some for row in entry.rows)
        return {
            (row["user"], item) for row in named for item in items if row.get("item", item) == item
        }

    gone = rows_of(Takedowns(heeded).active.values())
    assert not shown & gone, f"version {table.version} shows {sorted(shown & gone)[:3]}"
    missing = planned - shown - rows_of(heeded.values())
    assert not missing, f"version {table.version} lacks {sorted(missing)[:3]}"
    assert shown <= planned


def check_end(chaos: Chaos) -> None:
    """See that `main` is published, and that nothing is wrong."""
    place = chaos.setting.place
    table = published(place.uri, storage=place.storage)
    assert table.manifest.config == {"run": "main"}
    rows = table.dataset().to_table(columns=["user", "item"]).to_pydict()
    shown = list(zip(*rows.values(), strict=True))
    assert len({*shown}) == len(shown)
    assert table.log.takedowns(table.version) == read_takedowns(place.location).number
    check_takedowns(chaos, table, {*shown}, {*chaos.setting.rows("main")})
    found = check_output(place.uri, place.storage)
    assert not [finding for finding in found if finding.severity == "error"], found


def check_garbage(chaos: Chaos) -> None:
    """See what is left if nothing is too young to be deleted."""
    place = chaos.setting.place
    output, table = place.location, published(place.uri, storage=place.storage)
    options = {"retention_hours": 0, "enforce_retention_duration": False, "full": True}
    deltalake.DeltaTable(output.shared_uri, storage_options=output.delta_options()).vacuum(
        dry_run=False, **options
    )
    time.sleep(1.1)  # the times in the store are whole seconds
    clean(output, timedelta(0))
    live = table.log.decided_by(table.version).run
    wanted = {record.run: record.nonce for record in records(output)}
    assert {live} <= set(wanted) <= {live, next(records(output)).run}, (live, wanted)
    folders = [f"{RUNS}/{run}/{name}" for run, nonce in wanted.items() for name in (nonce, "run-")]
    folders += ["_delta_log/", "_xrec/takedowns/"]
    left = [file for file in output.files() if not file.startswith(tuple(folders))]
    assert sorted(left) == sorted(table.log.files(table.version)["path"].to_pylist())
