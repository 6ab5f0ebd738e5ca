"""What a command of ours does: plan, work, retry, publish. RULES names the protocol's rules."""

from collections.abc import Sequence
from typing import NamedTuple

from tests.xrec.bulk.model import table
from tests.xrec.bulk.model.store import CORRUPT, Actor, EndedError, World
from tests.xrec.bulk.model.table import NO_TABLE, ROUNDS, Base, Files, Log

RULES = {
    "create_only": "Results, records and passes are created, never overwritten.",
    "second_name": "A result that cannot be read stays; it is done once more under `<chunk>~1`.",
    "next_record": "Of `run-<k>` the highest counts; where its plan is not whole, k + 1 is made.",
    "command_base": "A command compares with what it saw when it began, not with its record.",
    "base_table": "A base is the table's metadata id and a version.",
    "whole_history": "A publish searches all of the history, not what came after its record.",
    "audit": "Whoever commits opens the table first, and undoes a newest version that is unsound.",
    "audit_files": "A version whose files are gone is unsound.",
    "meant_table": "A commit is sound only in the table that it meant.",
    "undo_marks": "A search skips what a sound undo has undone.",
    "pass_or_later": "A publish of the run's nonce with this pass or a later one: it is done.",
    "refuse_newer": "Another publish, a rollback or an emptying since the base: refused.",
    "refuse_withdrawn": "Rolled back or emptied after it was published: only on request.",
    "list_after_opening": "Passes and the takedown list are read after the table was opened.",
    "next_version_only": "A commit creates the next version and is never moved to a later one.",
    "back_to_opening": "Whatever a commit's answer, go back to opening and searching.",
    "takedown_listed": "A takedown begins when its pair is seen to be on the list.",
    "takedown_commits": "A takedown commits even where it finds nothing.",
    "takedown_creates": "A takedown creates an empty table where there is none.",
    "takedown_checks": "A takedown looks at its files before its commit, and at the table after.",
    "rollback_filters": "A rollback leaves out what is on the takedown list.",
    "undo_filters": "An undo leaves out what is on the takedown list.",
    "empty_commits": "An emptying commits even where there is nothing to empty.",
    "clean_named": "Clean lists first, then reads the records, and spares what the newest names.",
    "never_lower": "No pass lower than one that a `pass.json` or a published version names.",
    "pass_key": "Results of a later pass lie below the key that its `pass.json` names.",
    "carry_sound": "Texts are carried over from a sound version only.",
    "count_rows": "Another program's commit that changes the number of rows is unsound.",
    "restore_sound": "Another program's restore of a sound version is sound.",
    "restore_decides": "Another program's restore counts as a rollback.",
    "restore_filtered": "A restore over a takedown is unsound: our rollback takes its place.",
    "failed_read": "A read that fails is tried again; it never means that nothing is there.",
    "empty_pointer": "An empty `_last_checkpoint` is ignored.",
}
CHUNKS = {"A": ((0, 1), (2, 3)), "B": ((2, 3), (4, 5))}  # run: the pairs of its chunks
_MOST_PASSES = 3
_AGAIN, _PLAN_ANEW = "again", "plan anew"


class Row(NamedTuple):
    pair: int
    run: str
    nonce: str
    pass_: int
    key: str  # of the pass
    text: str  # empty: the row failed


class Record(NamedTuple):
    """`run-<k>.json`; without a nonce there is none."""

    k: int
    nonce: str
    base: Base


Passes = list[tuple[str, Sequence[Sequence[int]]]]  # each one's key and the pairs of its chunks


def newest_record(run: str) -> Actor:
    keys = yield "list", f"x/{run}/run-"
    k = max((int(key.rsplit("-", 1)[1]) for key in keys), default=-1)
    found = (yield "get", f"x/{run}/run-{k}") if keys else None
    return found or Record(k, "", NO_TABLE)


class Command:
    """One `xrec backfill`, from its opening to its answer."""

    def __init__(self, world: World, run: str, retry: bool, republish: bool) -> None:
        self.world, self.run, self.retry, self.republish = world, run, retry, republish
        self.base, self.record = NO_TABLE, Record(-1, "", NO_TABLE)

    def go(self) -> Actor:
        """Plan, work, retry and publish; return what the command says at its end."""
        log = yield from table.open_sound(self.world)
        self.base = Base(log.table, log.version, self.world.now)
        for _ in range(ROUNDS):
            self.record = yield from newest_record(self.run)
            passes = (yield from self._passes()) if self.record.nonce else None
            if passes is None:
                yield from self._plan()
                continue
            yield from self._work(passes)
            if self.retry and len(passes) < _MOST_PASSES:
                yield from self._plan_pass(passes)
                continue
            answer = yield from self._publish()
            if answer not in (_AGAIN, _PLAN_ANEW):
                return answer
            if answer == _PLAN_ANEW:
                yield from self._plan()
        raise EndedError("gave up")

    def _at(self, rest: str) -> str:
        return f"x/{self.run}/{self.record.nonce}/{rest}"

    def _create(self, key: str, value: object) -> Actor:
        yield "create" if self.world.on("create_only") else "put", key, value

    def _plan(self) -> Actor:
        """Write a plan under a nonce of its own, with the texts of the table, then name it."""
        world, k = self.world, self.record.k + 1
        if k and not world.on("next_record"):
            raise EndedError("stuck: the plan is gone")
        log = yield from (table.open_sound if world.on("carry_sound") else table.open_table)(world)
        texts: dict[int, str] = {}
        for file in log.live:
            texts |= {row.pair: row.text for row in (yield "get", file) or ()}
        self.record = Record(k, world.new("N"), Base(log.table, log.version))
        for chunk, pairs in enumerate(CHUNKS[self.run]):
            yield "put", self._at(f"plan/{chunk}"), {pair: texts.get(pair) for pair in pairs}
        yield from self._create(f"x/{self.run}/run-{k}", self.record)

    def _passes(self) -> Actor:
        """Return pass 0 and the later ones; None where a plan that is named is not whole."""
        chunks, keys = CHUNKS[self.run], set((yield "list", self._at("")))
        passes: Passes = [("-", chunks)]
        if any(self._at(f"plan/{chunk}") not in keys for chunk in range(len(chunks))):
            return None
        for number in range(1, _MOST_PASSES):
            if self._at(f"pass-{number}.json") in keys:
                key = yield "get", self._at(f"pass-{number}.json")
                pairs = yield "get", self._at(f"pass-{number}/{key}/plan")
                if not pairs or len(passes) < number:
                    return None
                passes.append((key, (pairs,)))
        return passes

    def _plan_pass(self, passes: Passes) -> Actor:
        """Plan failed rows of some reasons as the next pass; who comes second adopts the first."""
        rows = yield from self._rows(passes)
        self.retry = rows is None
        failed = [row.pair for chunk in rows or () for row in chunk if not row.text]
        if failed:
            at = self._at(f"pass-{len(passes)}")
            key = self.world.new("K") if self.world.on("pass_key") else "-"
            yield "put", f"{at}/{key}/plan", tuple(failed[: self.world.rng.randint(1, 2)])
            yield from self._create(f"{at}.json", key)

    def _work(self, passes: Passes) -> Actor:
        """Do the chunks that have no result, in any order."""
        for number, (key, chunks) in enumerate(passes):
            for chunk in self.world.rng.sample(range(len(chunks)), len(chunks)):
                yield from self._do_chunk(number, key, chunk, chunks[chunk])

    def _do_chunk(self, number: int, key: str, chunk: int, pairs: Sequence[int]) -> Actor:
        name = self._at(f"pass-{number}/{key}/results/{chunk}")
        found = yield "get", name
        is_second = found == CORRUPT
        if is_second and self.world.on("second_name"):
            name += "~1"
            found = yield "get", name
            if found == CORRUPT:
                raise EndedError("error: a result cannot be read, twice")
        elif is_second:
            yield "delete", name
        if found is None or found == CORRUPT:
            texts = ((yield "get", self._at(f"plan/{chunk}")) or {}) if number == 0 else {}
            row = (self.run, self.record.nonce, number, key)
            rows = [Row(pair, *row, texts.get(pair) or self._text()) for pair in pairs]
            breaks = self.world.rng.random() < (0.01 if is_second else 0.05)
            yield from self._create(name, CORRUPT if breaks else rows)

    def _text(self) -> str:
        return "" if self.world.rng.random() < 0.3 else self.world.new("text")

    def _rows(self, passes: Passes) -> Actor:
        """Return each chunk's rows of the latest passes; None where a result is missing."""
        latest: dict[int, Row] = {}
        for number, (key, chunks) in enumerate(passes):
            for chunk in range(len(chunks)):
                name = self._at(f"pass-{number}/{key}/results/{chunk}")
                rows = yield "get", name
                if rows == CORRUPT:
                    rows = yield "get", f"{name}~1"
                if rows is None or rows == CORRUPT:
                    return None
                latest |= {row.pair: row for row in rows}
        return [[latest[pair] for pair in pairs] for pairs in CHUNKS[self.run]]

    def _publish(self) -> Actor:
        """Replace the table's content by the run's rows, unless something speaks against it."""
        world, before_opening = self.world, (yield "list", "taken/")
        for _ in range(ROUNDS):
            log = yield from table.open_sound(world)
            passes = yield from self._passes()
            if passes is None:
                return _AGAIN
            rows = yield from self._rows(passes)
            while rows is None and len(passes) > 1 and not world.on("never_lower"):
                passes.pop()
                rows = yield from self._rows(passes)
            answer = self._decide(log, len(passes) - 1)
            if answer or rows is None:
                return answer or _AGAIN
            after_opening = yield "list", "taken/"
            taken = after_opening if world.on("list_after_opening") else before_opening
            live = yield from self._write_parts(rows, taken)
            mine = {"run": self.run, "nonce": self.record.nonce, "pass_": len(passes) - 1}
            seen = {"base": self.base, "republish": self.republish}
            entry = table.ours(world, log, "publish", live, **mine, **seen)
            answer = yield from table.commit(world, log, entry)
            if answer is not False and not world.on("back_to_opening"):
                return self._done(entry.pass_)
        raise EndedError("gave up")

    def _write_parts(self, rows: Sequence[Sequence[Row]], taken: Sequence[str]) -> Actor:
        live: Files = {}
        for chunk in rows:
            file = self.world.new("part/")
            kept = [row for row in chunk if f"taken/{row.pair}" not in taken]
            yield "put", file, kept
            live[file] = len(kept)
        return live

    def _decide(self, log: Log, pass_: int) -> str | None:
        """Say why nothing is to be published, or None."""
        on, base = self.world.on, self.base if self.world.on("command_base") else self.record.base
        me, decisions = ("publish", self.run, self.record.nonce), list(log.decisions())
        entries = {v: log.entries[v] for v in decisions}
        mine = {v: e.pass_ for v, e in entries.items() if (e.kind, e.run, e.nonce) == me}
        if not on("whole_history") and log.table == self.record.base.table:
            decisions = [v for v in decisions if v > self.record.base.version]
        if not decisions:
            return None
        newest = decisions[0]
        reach = {v for v, p in mine.items() if p == pass_ or (p > pass_ and on("pass_or_later"))}
        if newest in reach:
            return self._done(mine[newest])
        came_since = newest > base.version or (log.table != base.table and on("base_table"))
        if newest not in mine and came_since and on("refuse_newer"):
            return "refused: another publish, rollback or emptying came meanwhile"
        withdrawn = reach and entries[newest].kind != "publish"
        if withdrawn and not self.republish and on("refuse_withdrawn"):
            return "refused: it was rolled back or emptied; say republish"
        is_lower = pass_ < max(mine.values(), default=-1)
        return _PLAN_ANEW if is_lower and on("never_lower") else None

    def _done(self, pass_: int) -> str:
        self.world.done.append((self.run, self.record.nonce, pass_))
        return "done"
