"""A Delta table as the model sees it: its entries, and which versions are sound.

A commit of ours says which table it meant (its metadata id) and which files were to be live. What a
commit of another program was, the log alone tells.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple, Optional

from tests.xrec.bulk.model.store import Actor, EndedError, World

ROUNDS = 20  # after which an actor that is always disturbed gives up
Files = dict[str, int]  # live files and their numbers of rows


class Base(NamedTuple):
    """What a command saw of the table when it began; the time is for the judge alone."""

    table: str | None = None
    version: int = -1
    time: int = 0


NO_TABLE = Base()


@dataclass(frozen=True, eq=False, slots=True)
class Entry:
    """A commit: publish, rollback, empty, takedown, undo; or foreign."""

    kind: str
    add: Files
    remove: frozenset[str]
    table: str | None = None  # the metadata id, where the entry creates the table
    meant: tuple[str | None, frozenset[str]] | None = None  # table and live files; None: not ours
    run: str = ""
    nonce: str = ""
    pass_: int = 0
    base: Base = NO_TABLE
    republish: bool = False
    target: int = -1  # of undo and rollback: the version whose content comes back


class Log:
    """The history of a table and its newest version; without entries there is no table."""

    def __init__(self, world: World, entries: tuple[Entry, ...], check: Optional["Log"]) -> None:
        self.entries, self.version, self.on = entries, len(entries) - 1, world.on
        self.table = entries[0].table if entries else None
        self.live: Files = {}
        self.lives: list[Files] = []  # of each version
        for version, entry in enumerate(entries):
            kept = {f: n for f, n in self.live.items() if f not in entry.remove}
            self.live = kept | entry.add
            if check and check.version == version:
                self.table, self.live = check.table, check.live
            self.lives.append(self.live)
        self.sound: list[bool] = []  # each version: it shows what a commit of ours meant
        for version in range(len(entries)):
            self.sound.append(self._is_sound(version))

    def _is_sound(self, version: int) -> bool:
        meant, live = self.entries[version].meant, self.lives[version].keys()
        before = self.lives[version - 1] if version else {}
        if meant is not None:
            return meant[1] == live and (meant[0] == self.table or not self.on("meant_table"))
        if live != before.keys():
            was_live = any(earlier.keys() == live for earlier in self.lives[:version])
            if was_live and self.on("restore_sound"):
                return self.restored(version) >= 0 and self.stale_restore(version) is None
            is_same = sum(self.lives[version].values()) == sum(before.values())
            if not is_same and self.on("count_rows"):
                return False
        return version == 0 or self.sound[version - 1]

    def restored(self, version: int) -> int:
        """Return the sound version whose files another program made live again, or -1."""
        live = self.lives[version].keys()
        if self.entries[version].meant or live == self.lives[version - 1].keys():
            return -1
        same = (v for v in range(version - 1, -1, -1) if self.lives[v].keys() == live)
        return next((v for v in same if self.sound[v]), -1)

    def stale_restore(self, version: int) -> int | None:
        """Return what another program restored over a takedown: its pair may be live again."""
        target = self.restored(version)
        over = any(entry.kind == "takedown" for entry in self.entries[target + 1 : version])
        return target if target >= 0 and over and self.on("restore_filtered") else None

    def undone(self) -> set[int]:
        """Return the versions that a sound undo has undone."""
        undos = [(v, e) for v, e in enumerate(self.entries) if e.kind == "undo" and self.sound[v]]
        return {version for v, undo in undos for version in range(undo.target + 1, v)}

    def decisions(self) -> Iterator[int]:
        """Yield the versions that decide what the table holds, from the newest on."""
        undone = self.undone() if self.on("undo_marks") else ()
        for version in range(self.version, -1, -1):
            restores = self.restored(version) >= 0 and self.on("restore_decides")
            decides = restores or self.entries[version].kind in ("publish", "rollback", "empty")
            if decides and version not in undone and self.sound[version]:
                yield version


def snapshot(world: World) -> Log | None:
    """Return the table as anyone opens it now; None: its log is damaged."""
    if world.opened is None:
        world.opened = _read(world) or False
    return world.opened or None


def _read(world: World) -> Log | None:
    entries = [world.objects.get(f"log/{v}", (None, 0))[0] for v in range(len(world.keys("log/")))]
    if None in entries or (entries and entries[0].table is None):
        return None
    checks = {key: world.objects[key][0] for key in world.keys("check/")}
    if checks.pop("check/pointer", None) == "" and not world.on("empty_pointer"):
        return None
    check = max(checks.values(), default=None, key=lambda log: log.version)
    if check and check.version >= len(entries):
        return None
    key = (*entries, check)
    log: Log = world.logs.get(key) or Log(world, tuple(entries), check)
    world.logs[key] = log
    return log


def open_table(world: World) -> Actor:
    """Open the newest version, whatever it is."""
    yield "list", "log/"
    log = snapshot(world)
    if log is None:
        raise EndedError("error: damaged log")
    return log


def open_sound(world: World) -> Actor:
    """Open the newest version; one that is not sound, or whose files are gone, is undone first."""
    for _ in range(ROUNDS):
        log = yield from open_table(world)
        files = log.live.keys() if world.on("audit_files") else set()
        is_whole = not files or files <= set((yield "list", "part/"))
        if not log.entries or (log.sound[-1] and is_whole) or not world.on("audit"):
            return log
        yield from _mend(world, log)
    raise EndedError("gave up: the newest version stays unsound")


def _mend(world: World, log: Log) -> Actor:
    """Bring back the newest version that is sound and whole, or what someone else restored."""
    there = set((yield "list", "part/"))
    whole = [v for v in range(log.version) if log.sound[v] and log.lives[v].keys() <= there]
    unsound = takewhile(lambda v: not log.sound[v], range(log.version, -1, -1))
    restores = (log.stale_restore(version) for version in unsound)
    target, kind = next((t for t in restores if t is not None), None), "rollback"
    if target not in whole:
        target, kind = whole[-1] if whole else -1, "undo"
    live = log.lives[target] if target >= 0 else {}
    if world.on("undo_filters"):
        live = yield from without_taken(world, live)
    if live is not None:
        yield from commit(world, log, ours(world, log, kind, live, target=target))


def without_taken(world: World, live: Files) -> Actor:
    """Return files without the pairs on the takedown list, rewritten if need be; None: torn."""
    taken = {int(key.split("/")[1]) for key in (yield "list", "taken/")}
    kept: Files = {}
    for file, num_rows in live.items():
        rows = (yield "get", file) if taken else ()
        if rows is None:
            return None
        new = [row for row in rows if row.pair not in taken]
        if len(new) < len(rows):
            file, num_rows = world.new("part/"), len(new)
            yield "put", file, new
        kept[file] = num_rows
    return kept


def ours(world: World, log: Log, kind: str, live: Files, **more: Any) -> Entry:
    """Return an entry of ours, which makes `live` of what `log` shows."""
    add = {file: num_rows for file, num_rows in live.items() if file not in log.live}
    new = None if log.entries else world.new("table")
    remove = frozenset(log.live.keys() - live.keys())
    return Entry(kind, add, remove, new, (log.table or new, frozenset(live)), **more)


def commit(world: World, log: Log, entry: Entry, *, rebase: bool = False) -> Actor:
    """Create the next version, and no later one; commits of other programs move to later ones."""
    rebase = rebase or not world.on("next_version_only")
    while (answer := (yield "create", f"log/{log.version + 1}", entry)) is False and rebase:
        log = yield from open_table(world)
        if not entry.remove <= log.live.keys() or entry.table:
            break
    return answer
