"""Commands on one table that take turns at the store, in orders drawn by a seed.

Each command is a thread of this process, and one goes on at a time: from one access of the store to
the next, where another one may be drawn, or the command may be killed, or sleep for long. So a
thousand interleavings of the product's own code are tried in minutes, and each is found again by
its seed. (`test_chaos` has real processes, and stores that fail.)
"""

import random
import threading
import traceback
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any

import deltalake
import pytest

from tests.world.here import Place
from tests.xrec.bulk.chaos import Chaos, Reader, check_end
from tests.xrec.bulk.chaos_driver import COMMANDS, Setting
from xrec.bulk import table
from xrec.bulk.runs.plan import Plan
from xrec.config.shared import StorageConfig
from xrec.errors import XRecError
from xrec.storage import delta, location
from xrec.storage.local import LocalLocation

ACCESSES: dict[Any, str] = {
    LocalLocation: "read_bytes read_range write_bytes write_file create_bytes files size sizes "
    "stamps folders details exists is_file stamp delete",
    deltalake.DeltaTable: "create_write_transaction restore",
    table: "create_table_with_add_actions",
    delta: "_load",
}
OTHERS = ("publish", "empty", "rollback", "vacuum", "optimize", "z_order")
DOWN = ("takedown", "audit", "forget")
MOST_TURNS = 20_000


class Dead(BaseException):
    """Ends a command that was killed, at whatever it asks of the store."""


class Actor(threading.Thread):
    """A command; `may_go` is set when it is its turn, and it is asleep for so many turns."""

    def __init__(self, turns: "Turns", name: str, do: Callable[[], object]):
        super().__init__(name=name, daemon=True)
        self._turns, self._do = turns, do
        self.may_go = threading.Event()
        self.is_dead, self.asleep, self.why = False, 0, ""

    def run(self) -> None:
        self.wait()
        try:
            self._do()
        except XRecError as error:
            self.why = f"{type(error).__name__}: {error}"
        except Dead:
            pass
        except BaseException:  # noqa: BLE001  the test fails with it
            self.why = traceback.format_exc()
        self._turns.pass_on(self, ended=True)

    def wait(self) -> None:
        assert self.may_go.wait(300), "nobody passed the turn on"
        self.may_go.clear()


class Turns:
    """Actors that take turns; `log` has a line for each access."""

    def __init__(self, seed: int):
        self.draw = random.Random(seed)
        self.actors: list[Actor] = []
        self.log: list[str] = []
        self._all_ended = threading.Event()

    def add(self, name: str, do: Callable[[], object]) -> None:
        self.actors.append(Actor(self, f"{len(self.actors)}-{name}", do))

    def play(self) -> list[Actor]:
        """Let all go to their ends."""
        everyone = [*self.actors]
        for actor in everyone:
            actor.start()
        self._next().may_go.set()
        assert self._all_ended.wait(300), "\n".join(self.log[-50:])
        return everyone

    def at(self, access: str) -> None:
        """An access is about to be made by whoever has the turn; other threads are not asked."""
        actor = threading.current_thread()
        if not isinstance(actor, Actor):
            return
        self.log.append(f"{actor.name} {access}")
        assert len(self.log) < MOST_TURNS, "they go on for ever"
        if not actor.is_dead:
            fate = self.draw.random()
            actor.is_dead = fate < 0.001
            if fate > 0.996:
                actor.asleep = self.draw.randint(20, 200)
            if actor.asleep or self.draw.random() < 0.3:
                self.pass_on(actor)
                actor.wait()
        if actor.is_dead:
            raise Dead

    def pass_on(self, actor: Actor, *, ended: bool = False) -> None:
        if ended:
            self.actors.remove(actor)
        if self.actors:
            self._next().may_go.set()
        else:
            self._all_ended.set()

    def _next(self) -> Actor:
        for each in self.actors:
            each.asleep = max(0, each.asleep - 1)
        awake = [each for each in self.actors if not each.asleep] or self.actors
        return self.draw.choice(awake)


def access(turns: Turns, name: str, do: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(do)
    def wrapped(self: Any, *given: Any, **options: Any) -> Any:
        turns.at(f"{name} {self if isinstance(self, LocalLocation) else ''}")
        return do(self, *given, **options)

    return wrapped


def delete_files(setting: Setting, draw: random.Random, folder: str) -> None:
    """Delete by hand what is in a folder, which may be the output itself."""
    files = [each for each in setting.place.location.files() if each.startswith(folder)]
    for file in draw.sample(files, len(files)):
        (setting.place.location / file).delete()


def play(setting: Setting, seed: int, patch: pytest.MonkeyPatch, *, deletes: str | None) -> None:
    """Play a round; raises AssertionError if a row is there twice, mixed or lost, or a command ends
    with an error that it has no cause for.

    deletes: a folder that is deleted by hand meanwhile; "" is the output.
    """
    turns = Turns(seed)
    draw = turns.draw
    chaos = Chaos(setting, seed, deletes=deletes == "", has_lost=bool(deletes))
    reader = Reader(chaos)
    with patch.context() as patched:
        patched.setattr(location, "_WAITS_SECONDS", (0.0, 0.0, 0.0))
        patched.setattr("xrec.bulk.parts.PART_BYTES", 1 << 12)
        patched.setattr("xrec.bulk.request.ROWS_PER_BUCKET", 4)
        patched.setattr("os.fsync", lambda file: None)
        patched.setattr("xrec.bulk.work.pool.num_cpus", lambda: 0)  # no actors write the table
        patched.setattr(uuid, "uuid4", lambda: uuid.UUID(int=draw.getrandbits(128)))
        # On Python 3.11 one lock is of all plans.
        patched.setattr(Plan.__dict__["index"], "lock", nullcontext(), raising=False)
        random.seed(seed)
        for owner, names in ACCESSES.items():
            for name in names.split():
                patched.setattr(owner, name, access(turns, name, getattr(owner, name)))

        def command(what: str, run: str = "main", retry: tuple[str, ...] = ()) -> None:
            again = draw.random() < 0.5
            turns.add(f"{what}-{run}", lambda: COMMANDS[what](setting, run, again, retry))

        for run in ("main", "main", draw.choice(["main", "other"])):
            command("complete", run)
        command("complete", retry=("odd",))
        # What was taken down is not known any more once the list was deleted by hand.
        on_list = {None: (*DOWN, *DOWN, "lift", "lift"), "": ()}.get(deletes, (*DOWN, *DOWN))
        for what in draw.sample(OTHERS + on_list, 4):
            command(what)
        turns.add("reader", lambda: [reader.look() for _ in range(4)])
        if deletes is not None:
            chaos.was_deleted = not deletes
            turns.add("delete", lambda: delete_files(setting, draw, deletes))
        try:
            for actor in turns.play():
                assert not actor.why or chaos.why_refused(actor.why), actor.why
        except AssertionError as error:
            error.add_note("\n".join(turns.log[-40:]))
            raise
    (setting.folder / "healed").touch()
    for name in setting.place.location.files():
        if name.endswith("/driver.json"):  # the killed are taken for dead after a while
            (setting.place.location / name).delete()
    COMMANDS["restart"](setting)
    COMMANDS["complete"](setting, "main", True, ("odd", "dull", "task_error"))
    reader.look_at_all()
    check_end(chaos)


@pytest.fixture
def played(tmp_path, monkeypatch):
    def of(*seeds: int, deletes: str | None = None) -> None:
        for seed in seeds:
            folder = tmp_path / f"{seed} {deletes}".replace("/", " ")
            folder.mkdir()
            place = Place(str(folder / "out"), StorageConfig())
            play(Setting(place, folder, 8, 10, 0.0), seed, monkeypatch, deletes=deletes)

    return of


@pytest.mark.parametrize("deletes", [None, "", "_xrec/", "_xrec/takedowns/"])
def test_commands_by_turns_leave_a_row_once_at_each_version(played, deletes):
    played(*range(6), deletes=deletes)


def test_turns_show_what_a_store_does_that_lets_a_file_be_created_twice(played, monkeypatch):
    create = LocalLocation.create_bytes

    def overwrite(self: LocalLocation, data: bytes) -> bool:
        if "conditional-write" in self.name:  # xrec asks for it first
            return create(self, data)
        self.write_bytes(data)
        return True

    monkeypatch.setattr(LocalLocation, "create_bytes", overwrite)
    with pytest.raises(AssertionError, match=r"made anew|rows twice|has rows of"):
        played(*range(20))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_commands_in_500_orders_leave_a_row_once_at_each_version(played):
    for first, deletes in enumerate((None, None, "", "_xrec/", "_xrec/takedowns/")):
        played(*range(100 * (first + 1), 100 * (first + 2)), deletes=deletes)
