"""A state machine of commands on one output, which decides who runs next and for how long.

Each command is a thread of this process. One runs at a time, for a drawn number of accesses to the
store. Between two accesses it can be killed, or suspended until it counts as dead. The model is a
dictionary of the rows that a reader must see; a command that nothing interrupts must change it as
expected. (`test_chaos` has real processes, and stores that fail.)
"""

import os
import random
import re
import threading
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import deltalake
import pytest
from hypothesis import Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

import xrec.bulk
from tests.fuzz import FEW, IN_MEMORY
from tests.seeds import SEED
from tests.world.here import Place, PoolHere
from tests.xrec.bulk.chaos import (
    COMMANDS,
    FORMAT,
    LOSSES,
    Chaos,
    Reader,
    Setting,
    check_end,
    taken_down,
)
from tests.xrec.bulk.toy_run import Toy
from xrec.bulk import Published, read_takedowns
from xrec.bulk.progress import TERM, read_progress
from xrec.bulk.run import Clock, now
from xrec.config import StorageConfig
from xrec.errors import XRecError
from xrec.storage import LocalLocation, Location, Manifest

ACCESSES: dict[Any, str] = {
    LocalLocation: "read_bytes read_range write_bytes write_file create_bytes files size sizes "
    "stamps folders details exists is_file stamp delete",
    deltalake.DeltaTable: "__init__",
}
UNCHANGED = ("optimize", "z_order", "their_vacuum", "delete_runs", "restart", "lift")
DOWN = ("takedown", "takedown", "forget", "lift")
OTHERS = (*UNCHANGED, *DOWN, *DOWN, "vacuum", "publish", "empty", "rollback", "rollback")
OWN_WAIT = Clock(wait=lambda event, seconds: event.wait())  # the test renews the lease
ALL = 10**9
Rows = dict[tuple[str, str], tuple[str, str | None]]


class Dead(BaseException):
    """Ends a killed command at its next access to the store."""


class Command(threading.Thread):
    """A command that runs when told to. answer: what it returned or raised."""

    def __init__(self, what: str, do: Callable[["Command"], object]):
        super().__init__(daemon=True)
        self.what, self._do = what, do
        self.toy: Toy | None = None
        self.answer: object = None
        self.is_dead = self.has_ended = False
        self._left = 0
        self._may_go, self._has_stopped = threading.Event(), threading.Event()

    def proceed(self, num_accesses: int) -> None:
        self._left = num_accesses
        self._may_go.set()
        if not self.is_alive():
            self.start()
        assert self._has_stopped.wait(120), f"{self.what} hangs"
        self._has_stopped.clear()

    def kill(self) -> None:
        self.is_dead = True
        self.proceed(ALL)

    def run(self) -> None:
        try:
            self.access()
            self.answer = self._do(self)
        except XRecError as error:
            self.answer = error
        except Dead:
            pass
        except BaseException:  # noqa: BLE001  it fails the test
            self.answer = traceback.format_exc()
        self.has_ended = True
        self._has_stopped.set()

    def access(self) -> None:
        """Wait for the command's turn to access the store."""
        if not self._left:
            self._may_go.clear()
            self._has_stopped.set()
        self._may_go.wait()
        if self.is_dead:
            raise Dead
        self._left -= 1


def in_turns(do: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that accesses the store, for which commands must wait for their turn."""

    @wraps(do)
    def wrapped(*given: Any, **options: Any) -> Any:
        command = threading.current_thread()
        # On Python 3.11, `cached_property` locks the indexes of all plans.
        if isinstance(command, Command) and getattr(given[0], "name", "") != "chunks.parquet":
            command.access()
        return do(*given, **options)

    return wrapped


class Commands(RuleBasedStateMachine):
    """Commands of xrec and of other programs, and deletions by hand."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        patch = self._stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr("xrec.storage.requests.WAITS_SECONDS", (0.0, 0.0, 0.0))
        patch.setattr("xrec.bulk.publisher.PART_BYTES", 1 << 12)
        patch.setattr("xrec.bulk.request.ROWS_PER_BUCKET", 4)
        patch.setattr("xrec.processes.num_cpus", lambda: 0)  # no actor writes the table
        for owner, names in ACCESSES.items():
            for name in names.split():
                patch.setattr(owner, name, in_turns(getattr(owner, name)))
        self._folder = Path(self._stack.enter_context(TemporaryDirectory(dir=IN_MEMORY)))
        place = Place(str(self._folder / "out"), StorageConfig())
        self._setting = Setting(place, self._folder, 8, 10, 0.0)
        self._commands: list[Command] = []
        self._has_swept = False

    @initialize(
        deletes=st.sampled_from([None, None, None, "", "_xrec/", "_xrec/takedowns/"]),
        runs=st.sampled_from([(), ("main",), ("other", "main"), ("main", "other")]),
        turns=st.none() | st.lists(st.integers(1, 25), min_size=6, max_size=24),
    )
    def publish(self, deletes: str | None, runs: tuple[str, ...], turns: list[int] | None) -> None:
        """deletes: what is deleted by hand once in this example; "" is the whole output."""
        self._deletes, self._is_deleted = deletes, False
        self._chaos = Chaos(self._setting, 0)
        self._reader = Reader(self._chaos)
        self._shown: Rows | None = {}
        self._versions: dict[int, Rows | None] = {}
        if turns:
            self.race("drivers", turns, 0)
        for run in runs:
            self.complete(run, ALL, 0, again=False, retry=())

    @property
    def _is_exact(self) -> bool:
        """Whether the list of takedowns and the published rows are known."""
        return not (self._chaos.was_deleted or self._chaos.has_lost)

    # Commands.

    @rule(
        run=st.sampled_from(["main", "main", "main", "other"]),
        num=st.sampled_from([ALL, ALL]) | st.integers(0, 150),
        number=st.integers(0, 2**20),
        again=st.booleans(),
        retry=st.sampled_from([(), (), ("odd",)]),
    )
    def complete(
        self, run: str, num: int, number: int, again: bool, retry: tuple[str, ...]
    ) -> None:
        draw = random.Random(number)

        def do(command: Command) -> object:
            command.toy = self._setting.open(run)
            pool = PoolHere(order=lambda chunks: draw.sample(chunks, len(chunks)))
            return complete(command.toy, pool, republish=again, retry=retry)

        self._begin(f"complete {run}", do, num)

    @rule(
        what=st.sampled_from(OTHERS),
        num=st.sampled_from([ALL, ALL]) | st.integers(0, 60),
        number=st.integers(0, 2**20),
        again=st.booleans(),
    )
    def other_command(self, what: str, num: int, number: int, again: bool) -> None:
        if self._deletes is not None and what == "lift":
            return  # without the list, nobody knows what was taken down
        if self._deletes == "" and what in DOWN:
            return
        draw = random.Random(number)
        self._begin(what, lambda _: COMMANDS[what](self._setting, draw, "main", again, ()), num)

    @rule(
        pair=st.sampled_from(["drivers", "drivers", "takedowns", "any"]),
        turns=st.lists(st.integers(1, 25), min_size=6, max_size=24),
        number=st.integers(0, 2**20),
    )
    def race(self, pair: str, turns: list[int], number: int) -> None:
        """Run two commands in turns until both end, such as drivers of one run."""
        draw = random.Random(number)
        for place in range(2):
            if pair == "drivers" or (pair == "any" and place):
                retry = draw.choice([(), ("odd",)])
                self.complete("main", 1, number + place, again=True, retry=retry)
            else:
                what = draw.choice(DOWN[:3] if pair == "takedowns" else OTHERS)
                self.other_command(what, 1, number + place, again=True)
        racing = self._commands[-2:]
        for turn, num in enumerate([*turns, ALL, ALL]):
            if racing and (command := racing[turn % len(racing)]) in self._commands:
                command.proceed(num)
                self._after()

    @precondition(lambda self: self._commands)
    @rule(which=st.integers(0, 3), num=st.integers(1, 80) | st.just(ALL))
    def proceed(self, which: int, num: int) -> None:
        command = self._commands[which % len(self._commands)]
        command.proceed(num)
        self._after()

    @precondition(lambda self: self._commands)
    @rule(which=st.integers(0, 3))
    def kill(self, which: int) -> None:
        self._commands[which % len(self._commands)].kill()
        self._after()

    # Events.

    @rule(are_awake=st.booleans())
    def hours_pass(self, are_awake: bool) -> None:
        """Make the files of runs old; working drivers renew their leases, or count as dead."""
        place, old = self._setting.place.location, now().timestamp() - 3 * 3600
        live = self._live_runs() if are_awake else {}
        for name in place.files():
            if name.startswith("_xrec/"):
                os.utime((place / name).path, (old, old))
            if name.endswith("/driver.json"):
                self._sign(place / name.removesuffix("/driver.json"), alive=False)
        for folder in live:
            self._sign(folder, alive=True)

    @rule()
    def heal(self) -> None:
        """Let retries of failed rows succeed from now on."""
        (self._folder / "healed").touch()

    @precondition(lambda self: self._deletes is not None and not self._is_deleted)
    @rule(number=st.integers(0, 2**20))
    def delete_by_hand(self, number: int) -> None:
        self._is_deleted = self._has_swept = True
        self._chaos.was_deleted, self._chaos.has_lost = not self._deletes, bool(self._deletes)
        place, draw = self._setting.place.location, random.Random(number)
        files = [each for each in place.files() if each.startswith(self._deletes or "")]
        for file in draw.sample(files, len(files)):
            (place / file).delete()
        self._after()

    def teardown(self) -> None:
        """Let all commands end; then one on `main` must succeed."""
        with self._stack:
            if hasattr(self, "_chaos"):
                self._end()

    def _end(self) -> None:
        while self._commands:
            self._commands[0].proceed(ALL)
            self._after()
        self.hours_pass(are_awake=False)
        self.heal()
        if self._chaos.has_lost:
            COMMANDS["restart"](self._setting, random.Random(0))
        reasons = ("odd", "dull", "task_error")
        assert complete(self._setting.open("main"), PoolHere(), republish=True, retry=reasons)
        self._reader.look_at_all()
        check_end(self._chaos)

    # The model.

    def _begin(self, what: str, do: Callable[[Command], object], num: int) -> None:
        if len(self._commands) > 4:
            return
        live, before = self._live_runs(), self._shown
        command = Command(what, do)
        self._commands.append(command)
        command.proceed(num)
        assert command.has_ended or num < ALL
        self._after()
        for folder, files in live.items():  # no command disturbs another's run
            assert {*files} <= {*files_of(folder)}, f"{what} deleted files of a working run"
        if command.has_ended and what == "delete_runs" and live:
            assert getattr(command.answer, "code", "") == "driver_at_work"
        if num == ALL and self._is_exact and before is not None and self._shown is not None:
            expected = self._expected(command, before)
            message = f"{what}: {command.answer!r:.300}"
            assert expected is None or any(self._shown == each for each in expected), message

    def _expected(self, command: Command, before: Rows) -> list[Rows] | None:
        """Return what may be shown after a command that nothing interrupted; None if unknown.

        Every command that opens the table removes what is on the list of takedowns.
        """
        what, answer, gone = command.what, command.answer, self._taken_down()
        left = {pair: row for pair, row in before.items() if pair not in gone}
        if isinstance(answer, XRecError):
            return [before, left]
        if what in UNCHANGED:
            return [before]
        if what == "empty":
            return [{}]
        if what == "rollback" and isinstance(answer, int):
            rows = self._versions.get(answer)
            kept = {pair: row for pair, row in (rows or {}).items() if pair not in gone}
            return None if rows is None else [kept]
        if what.startswith("complete") or (what == "publish" and answer is not None):
            # The reader checks that the texts of a run do not change.
            assert self._shown is not None
            planned = {*self._setting.rows("other" if "other" in what else "main")}
            return [self._shown] if self._shown.keys() == planned - gone else []
        return [left]

    def _after(self) -> None:
        """Check that commands that ended had a cause for their error, and read the table."""
        for each in [each for each in self._commands if each.has_ended]:
            self._commands.remove(each)
            self._has_swept |= each.what in ("delete_runs", "vacuum")
            if isinstance(answer := each.answer, XRecError):
                has_slept = self._has_swept and answer.code in LOSSES[:6]  # its run was deleted
                has_cause = has_slept or self._chaos.has_cause(answer.code)
                assert has_cause or self._is_all_gone(each), f"{each.what}: {answer}"
            assert not isinstance(answer, str), answer
        if (table := self._reader.look()) is not None:
            self._shown = self._versions[table.version] = shown_by(table)
        else:  # nothing is published, or a deletion made it unreadable
            self._shown = None if self._chaos.was_deleted else {}

    def _is_all_gone(self, command: Command) -> bool:
        """Return whether a run ended because each of its rows is taken down."""
        assert isinstance(command.answer, XRecError)
        rows = self._setting.rows("other" if "other" in command.what else "main")
        return command.answer.code == "no_rows" and {*rows} <= self._taken_down()

    def _taken_down(self) -> set[tuple[str, str]]:
        if not self._is_exact:
            return set()
        entries = read_takedowns(self._setting.place.location).entries
        return taken_down(self._setting, entries)

    def _live_runs(self) -> dict[Location, list[str]]:
        """Return the folders of runs whose drivers count as alive, with their files."""
        found = {}
        for each in self._commands:
            last = None if each.toy is None else read_progress(each.toy.run.folder)
            if last is not None and last.expires_at is not None and last.expires_at > now():
                found[each.toy.run.folder] = files_of(each.toy.run.folder)
        return found

    def _sign(self, folder: Location, *, alive: bool) -> None:
        if (last := read_progress(folder)) is not None and last.expires_at is not None:
            renewed = last.model_copy(update={"expires_at": now() + (TERM if alive else -TERM)})
            (folder / "driver.json").write_bytes(renewed.to_bytes())


def complete(toy: Toy, pool: PoolHere, **options: Any) -> Manifest | None:
    mark = f"{toy.run.record.run} {toy.run.record.nonce}"
    return toy.complete(pool, toy.make_task(mark=mark, format=FORMAT), clock=OWN_WAIT, **options)


def files_of(folder: Location) -> list[str]:
    return [name for name in folder.files() if name.startswith(("plan/", "results/", "pass-"))]


def shown_by(table: Published) -> Rows:
    names = [*FORMAT.keys, "status", "text"]
    rows = table.dataset(status=None).to_table(columns=names).to_pylist()
    return {(row["user_id"], row["item_id"]): (row["status"], row["text"]) for row in rows}


QUICK = settings(FEW, max_examples=6, stateful_step_count=10, phases=[Phase.generate])
"""Without shrinking a failing example, which takes minutes; the slow test does that."""


def test_commands_in_turns_leave_each_row_once_in_each_version():
    run_state_machine_as_test(Commands, settings=QUICK)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_commands_in_many_orders_leave_each_row_once_in_each_version():
    """100 orders of 20 steps, which take about five minutes on one core."""
    drawn = seed(SEED)(type("Drawn", (Commands,), {}))
    wide = settings(FEW, max_examples=100, stateful_step_count=20, derandomize=False)
    run_state_machine_as_test(drawn, settings=wide)


def test_rules_are_each_tested():
    stated = re.findall(r"^(\d+)\. ", xrec.bulk.__doc__ or "", re.MULTILINE)
    assert stated == [str(number) for number in range(1, len(stated) + 1)]
    texts = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert set(re.findall(r"^def test_rule_(\d+)_", texts, re.MULTILINE)) == set(stated)
