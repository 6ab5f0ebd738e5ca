"""Whoever else touches the output: our further commands, other programs, readers, a hand."""

from collections.abc import Callable, Sequence

from tests.xrec.bulk.model import table
from tests.xrec.bulk.model.protocol import CHUNKS, Row, newest_record
from tests.xrec.bulk.model.store import RETENTION, Actor, EndedError, World
from tests.xrec.bulk.model.table import ROUNDS, Entry


def take_down(world: World, pair: int) -> Actor:
    """List a pair, then commit the table without it; it has ended once that commit is seen."""
    while (yield "create", f"taken/{pair}", "") is None and world.on("takedown_listed"):
        pass
    mine: list[Entry] = []
    for _ in range(ROUNDS):
        log = yield from table.open_sound(world)
        undone = log.undone()
        seen = any(e in mine and v not in undone for v, e in enumerate(log.entries))
        if seen or not (log.entries or world.on("takedown_creates")):
            break
        live = yield from table.without_taken(world, log.live)
        there = set((yield "list", "part/")) if world.on("takedown_checks") else live
        if live is None or not live.keys() <= set(there):
            continue
        if live == log.live and not world.on("takedown_commits"):
            break
        mine.append(table.ours(world, log, "takedown", live))
        answer = yield from table.commit(world, log, mine[-1])
        if answer is not False and not world.on("takedown_checks"):
            break
    else:
        raise EndedError("gave up")
    world.taken[pair] = world.now


def roll_back(world: World) -> Actor:
    """Bring back an earlier version, without the pairs on the takedown list."""
    log = yield from table.open_sound(world)
    target = world.rng.randrange(max(log.version, 1))
    if log.version < 1 or not log.sound[target]:
        return "refused"
    live = log.lives[target]
    is_whole = live.keys() <= set((yield "list", "part/"))
    if world.on("rollback_filters"):
        live = yield from table.without_taken(world, live)
    if is_whole and live is not None:
        entry = table.ours(world, log, "rollback", live, target=target)
        yield from table.commit(world, log, entry)
        yield from table.open_sound(world)


def empty(world: World) -> Actor:
    """Commit a version without rows, on top of whatever is there."""
    mine: list[Entry] = []
    began = 0
    for _ in range(ROUNDS):
        log = yield from table.open_table(world)
        began = began or world.now
        if set(mine) & set(log.entries) or not (log.live or world.on("empty_commits")):
            world.emptied = max(world.emptied, began)
            return
        mine.append(table.ours(world, log, "empty", {}))
        yield from table.commit(world, log, mine[-1])
    raise EndedError("gave up")


def optimize(world: World) -> Actor:
    """Another program rewrites some files as one."""
    log = yield from table.open_table(world)
    files = world.rng.sample(list(log.live), world.rng.randint(0, len(log.live)))
    rows: list[Row] = []
    for file in files:
        rows += (yield "get", file) or ()
    if files and len(rows) == sum(log.live[file] for file in files):
        yield from _add(world, log, rows, frozenset(files))


def append(world: World) -> Actor:
    """Another program adds a row that no run of ours knows."""
    log = yield from table.open_table(world)
    if log.entries:
        world.causes.add("foreign")
        row = Row(world.rng.randrange(6), "-", "-", 0, "-", "foreign")
        yield from _add(world, log, [row], frozenset())


def _add(world: World, log: table.Log, rows: Sequence[Row], remove: frozenset[str]) -> Actor:
    file = world.new("part/")
    yield "put", file, rows
    yield from table.commit(world, log, Entry("foreign", {file: len(rows)}, remove), rebase=True)


def restore(world: World) -> Actor:
    """Another program restores an earlier version; it knows nothing of takedowns."""
    log = yield from table.open_table(world)
    target = world.rng.randrange(max(log.version, 1))
    if log.version > 0 and log.lives[target].keys() <= set((yield "list", "part/")):
        if any(entry.kind == "takedown" for entry in log.entries[target + 1 :]):
            world.causes.add("foreign")
        add, gone = log.lives[target], frozenset(log.live.keys() - log.lives[target].keys())
        yield from table.commit(world, log, Entry("foreign", add, gone))


def vacuum(world: World) -> Actor:
    """Another program deletes old files that nobody needs, between two commits of nothing."""
    ages = yield "ages", "part/"
    log = yield from table.open_table(world)
    times = yield "ages", "log/"
    if log.entries:
        yield from table.commit(world, log, Entry("foreign", {}, frozenset()), rebase=True)
        young = [e for v, e in enumerate(log.entries) if times.get(f"log/{v}", 0) <= RETENTION]
        spared = set(log.live).union(*(entry.remove for entry in young))
        for file in [file for file, age in ages.items() if age > RETENTION and file not in spared]:
            world.causes.add("vacuum")
            yield "delete", file
        yield from table.commit(world, log, Entry("foreign", {}, frozenset()), rebase=True)


def checkpoint(world: World) -> Actor:
    """Another program writes a checkpoint; now and then it leaves an empty pointer to it."""
    log = yield from table.open_table(world)
    if log.entries:
        yield "put", f"check/{log.version}", log
        yield "put", "check/pointer", "" if world.rng.random() < 0.3 else log.version


def clean(world: World) -> Actor:
    """Delete old nonces that no newest record names, after the records of superseded runs."""
    named = () if world.on("clean_named") else (yield from _named())
    ages = yield "ages", "x/"
    log = yield from table.open_table(world)
    times = yield "ages", "log/"
    newest = next(log.decisions(), -1)
    for run in CHUNKS:
        mine = {key: age for key, age in ages.items() if key.startswith(f"x/{run}/")}
        is_old = min([*mine.values(), times.get(f"log/{newest}", 0)]) > RETENTION
        if is_old and log.entries[newest].run not in ("", run):
            for key in sorted(key for key in mine if "/run-" in key):
                yield "delete", key
    spared = {key.split("/")[2] for key, age in ages.items() if age <= RETENTION}
    spared |= set(named or (yield from _named()))
    for key in ages:
        if key.split("/")[2] not in spared and "/run-" not in key:
            yield "delete", key


def _named() -> Actor:
    nonces = []
    for run in CHUNKS:
        nonces.append((yield from newest_record(run)).nonce)
    return nonces


def delete_by_hand(world: World) -> Actor:
    """Someone deletes the output, a folder or some objects of it, one by one in any order."""
    folder = world.rng.choice(("", "", "", "x/", "log/", "part/"))
    keys = [key for key in (yield "list", folder) if not key.startswith("taken/")]
    world.causes |= {"raw"} if keys else set()
    most = len(keys) if world.rng.random() < 0.7 else min(3, len(keys))
    for key in world.rng.sample(keys, most):
        yield "delete", key


def read(world: World, judge: Callable[[Sequence[Row], int], None], audits: bool) -> Actor:
    """Open the newest version, then read its files one after the other, and have it judged."""
    log = yield from table.open_table(world)
    opened, rows = world.now, []
    if audits and log.entries and not log.sound[-1]:
        return "refused: unsound"
    for file in log.live:
        found = yield "get", file
        if found is None:
            return "error: a file is missing"
        rows += found
    judge(rows, opened)
