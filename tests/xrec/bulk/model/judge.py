"""What must hold, seen by one who sees everything at once; and the windows that no rule closes."""

from collections.abc import Sequence

from tests.xrec.bulk.model.protocol import CHUNKS, Row
from tests.xrec.bulk.model.store import CORRUPT, World
from tests.xrec.bulk.model.table import Entry, Files, Log, snapshot

_UNSOUND = "a version that the audit refuses"
_FOREIGN_READER = "a foreign reader took such a version"
_TAKEN = "a pair that was taken down"
_RAW, _FOREIGN = {"raw"}, {"raw", "foreign"}
# Finding: what opens the window. docs/bulk.md says what a user sees then, and what to do.
WINDOWS = {
    "a takedown under way": {"takedown"},
    _UNSOUND: _FOREIGN,
    _FOREIGN_READER: _FOREIGN,
    "files missing": {"raw", "vacuum"},
    "damaged log": _RAW,
    _TAKEN: _RAW,
    "published over what came meanwhile": _RAW,
    "a right version was undone": _RAW,
}


def is_window(world: World, finding: str) -> bool:
    return not WINDOWS.get(finding, set()).isdisjoint(world.causes)


def judge_commit(world: World, version: int, entry: Entry) -> None:
    """Judge a version at the moment when it appears."""
    log = snapshot(world)
    if log is None or log.version != version:
        return
    rows, sound = _rows(world, log.live), log.sound[version]
    if not _is_whole(world, log.live):
        world.find("files missing")
    for wrong in _wrong(world, rows, _is_whole(world, log.live)):
        world.find(wrong if sound else _UNSOUND)
    for pair in {row.pair for row in rows if f"taken/{row.pair}" in world.objects}:
        world.causes.add("takedown")
        taken = _TAKEN if sound else _UNSOUND
        world.find(taken if pair in world.taken else "a takedown under way")
    if sound and entry.kind == "publish":
        _judge_results(world, entry, rows)
        _judge_publish(world, log, entry)
    if sound and entry.kind == "undo" and _is_right(world, log.lives[-2], log.sound[-2]):
        is_new = entry.meant is None or entry.meant[0] != log.table
        world.find("a right version was undone" + is_new * " in a new table")


def judge_reading(world: World, audits: bool, rows: Sequence[Row], opened: int) -> None:
    """Judge a version that someone has read completely."""
    for wrong in _wrong(world, rows, True):
        world.find(f"our reader: {wrong}" if audits else _FOREIGN_READER)
    if any(world.taken.get(row.pair, opened) < opened for row in rows):
        world.find(_TAKEN if audits else _FOREIGN_READER)


def judge_answers(world: World, answers: dict[str, str]) -> None:
    """Judge what actors said at their end."""
    log = snapshot(world)
    for answer in answers.values():
        if answer.startswith(("stuck", "gave up")):
            world.find(answer)
    if log is None or "error: damaged log" in answers.values():
        world.find("damaged log")
    if log is not None and "raw" not in world.causes:
        undone = log.undone()
        stands = [entry for v, entry in enumerate(log.entries) if v not in undone]
        for run, nonce, pass_ in world.done:
            own = [e for e in log.entries if (e.run, e.nonce) == (run, nonce) and e.pass_ >= pass_]
            if not any(e in stands for e in own):
                # A vacuum that had looked before the commit may delete its files after the answer.
                is_whole = all(_is_whole(world, e.add) for e in own)
                world.find("said done, and no version shows it" if is_whole else "files missing")


def judge_end(world: World, run: str, answer: str) -> None:
    """Judge the table after a last command of a run, which nothing disturbed."""
    log = snapshot(world)
    if answer == "error: a result cannot be read, twice":
        return
    if answer != "done" or log is None:
        world.find(f"a last command says {answer}")
        return
    rows, decisions = _rows(world, log.live), _decisions(log, log.version)
    is_good = log.version >= 0 and log.sound[-1] and _is_whole(world, log.live)
    if not is_good or not decisions or decisions[0][1].run != run:
        world.find("a last command's rows are not published")
        return
    _judge_results(world, decisions[0][1], rows)
    for wrong in _wrong(world, rows, True):
        world.find(f"in the end: {wrong}")


def judge_garbage(world: World) -> None:
    """Judge what is left after a clean and a vacuum, long after."""
    log = snapshot(world)
    records = [world.objects[key][0].nonce for key in world.keys("x/") if "/run-" in key]
    nonces = {key.split("/")[2] for key in world.keys("x/") if "/run-" not in key}
    parts = set(world.keys("part/"))
    if log and log.entries and (nonces - set(records) or parts - log.live.keys()):
        world.find("garbage is left")


def _rows(world: World, live: Files) -> list[Row]:
    return [row for file in live if file in world.objects for row in world.objects[file][0]]


def _is_whole(world: World, live: Files) -> bool:
    return live.keys() <= world.objects.keys()


def _is_right(world: World, live: Files, sound: bool) -> bool:
    """Tell whether a version was as it should be, whatever the protocol's audit says of it."""
    rows = _rows(world, live)
    listed = any(f"taken/{row.pair}" in world.objects for row in rows)
    wrong = listed or _wrong(world, rows, True) or "raw" in world.causes
    return _is_whole(world, live) and (sound or not wrong)


def _wrong(world: World, rows: Sequence[Row], is_whole: bool) -> list[str]:
    """Return what is wrong with the rows of a version."""
    pairs, runs = {row.pair for row in rows}, {row[1:3] for row in rows}
    planned = {pair for run, _ in runs for chunk in CHUNKS.get(run, ()) for pair in chunk}
    missing = {pair for pair in planned - pairs if f"taken/{pair}" not in world.objects}
    found = {
        "a pair twice": len(pairs) < len(rows),
        "rows of two runs": len(runs) > 1,
        "rows of two plans of a pass": len({r[1:5] for r in rows}) > len({r[1:4] for r in rows}),
        "rows that are not ours": any(row.text == "foreign" for row in rows),
        "rows missing": is_whole and len(runs) == 1 and bool(missing),
    }
    return [wrong for wrong, is_so in found.items() if is_so]


def _judge_publish(world: World, log: Log, entry: Entry) -> None:
    """A publish replaces nothing sound that its command did not know of."""
    decisions = _decisions(log, log.version - 1)
    mine = [e for _, e in decisions if (e.run, e.nonce) == (entry.run, entry.nonce)]
    newest, decision = decisions[0] if decisions else (-1, None)
    if decision and world.objects[f"log/{newest}"][1] > entry.base.time and decision not in mine:
        is_new = log.table != entry.base.table
        world.find("published over what came meanwhile" + is_new * " in a new table")
    again = any(e.pass_ >= entry.pass_ for e in mine) and not entry.republish
    if decision and decision.kind != "publish" and again:
        world.find("published again what was rolled back or emptied")
    if any(e.pass_ > entry.pass_ for e in mine):
        world.find("an earlier pass published over a later one")
    if decision not in mine and entry.base.time < world.emptied and "raw" not in world.causes:
        world.find("published over an emptying that came meanwhile")


def _decisions(log: Log, version: int) -> list[tuple[int, Entry]]:
    """Return what decided the content up to a version, without the protocol's own search."""
    found = []
    while version >= 0:
        entry = log.entries[version]
        if entry.kind in ("publish", "rollback", "empty") or log.restored(version) >= 0:
            found.append((version, entry))
        version = entry.target if entry.kind == "undo" else version - 1
    return found


def _judge_results(world: World, entry: Entry, rows: Sequence[Row]) -> None:
    """Each row is of a result that stands, and of the latest pass that planned it."""
    at, latest = f"x/{entry.run}/{entry.nonce}/", dict[int, int]()
    records = [world.objects[key][0].nonce for key in world.keys(f"x/{entry.run}/run-")]
    if "raw" in world.causes or entry.nonce not in records:
        return  # deleted by hand; or by clean, as a superseded run, while its publisher slept
    for number in range(1, entry.pass_ + 1):
        key = world.objects[f"{at}pass-{number}.json"][0]
        latest |= dict.fromkeys(world.objects[f"{at}pass-{number}/{key}/plan"][0], number)
    results = [world.objects[key][0] for key in world.keys(f"{at}pass-") if "/results/" in key]
    standing = {row for result in results if result != CORRUPT for row in result}
    if not set(rows) <= standing:
        world.find("a row that no result has")
    if any(row.pass_ != latest.get(row.pair, 0) for row in rows):
        world.find("a row of an earlier pass than its latest")
