"""Rule 13 of xrec.bulk: what is taken down is in no later version, whoever makes it."""

import hmac
import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import ClassVar

import deltalake
import duckdb
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.errors import raises
from tests.world.here import Killed, PoolHere, plan_of
from tests.xrec.bulk.conftest import Toys
from tests.xrec.bulk.toy_run import (
    IDENTITY,
    OTHER,
    commit_once,
    describe,
    die_here,
    files_of,
    rows_of,
    table_at,
)
from xrec import bulk
from xrec.bulk import (
    check_output,
    lift,
    read_takedowns,
    rollback,
    take_down,
)
from xrec.bulk.takedown import Entry, Takedowns, forget_on_list, put_on_list
from xrec.bulk.upkeep import TakenDown
from xrec.errors import DataError, TableError
from xrec.jobs.output import Output
from xrec.storage.delta import open_log
from xrec.storage.forgotten import Forgotten
from xrec.storage.local import LocalLocation

PAIR = {"user": "u-3", "item": "a"}


"""Of a takedown, with the modules that call them."""


def down(toys: Toys, **row: str) -> TakenDown:
    return take_down(toys.uri, rows=[row or PAIR], reason="it is wrong", storage=toys.storage)


def has_pair(toys: Toys) -> bool:
    """Whether another program finds the pair in the newest version."""
    rows = table_at(toys).to_pyarrow_table(columns=[*PAIR]).to_pylist()
    return PAIR in rows


def test_rule_13_what_is_taken_down_before_there_is_a_table_is_never_published(here):
    made = down(here)
    assert (made.number, made.num_rows, made.version) == (1, 0, 0)
    assert down(here) == made
    toy = here()
    record = toy.run.record
    assert (record.num_rows, record.rejected, record.num_rejected) == (35, {"taken_down": 1}, 0)
    manifest = toy.complete()
    left = [row for row in toy.rows if row != ("u-3", "a")]
    assert (rows_of(toy.published()), manifest.row_counts["explanations"]) == (left, 35)
    assert here().complete() == toy.published().manifest
    assert check_output(here.uri, here.storage) == []
    down(here, item="b")
    with raises(DataError, "no_rows", "taken_down", 12):
        here("b", identity=OTHER)


def test_rule_13_takedown_writes_anew_only_the_files_that_have_the_rows(here):
    here.in_parts(4000)
    here.patch.setattr("xrec.bulk.request.ROWS_PER_BUCKET", 4)
    toy = here("a odd-1 b", num_users=30)
    toy.complete()
    before = set(files_of(toy))
    made = down(here)
    after = set(files_of(toy))
    assert (made.num_rows, made.version, len(before - after), len(after - before)) == (1, 1, 1, 1)
    assert len(before & after) > 3
    down(here, item="odd-1")
    table = toy.published()
    assert table.manifest.row_counts == {"explanations": 59, "failed": 0}
    assert rows_of(table) == [row for row in toy.rows if row != ("u-3", "a") and row[1] != "odd-1"]
    assert table.find(table.dataset(), "user", ["u-3"]).num_rows == 1
    assert check_output(here.uri, here.storage) == []
    assert here("a odd-1 b", num_users=30).complete() == table.manifest


@pytest.mark.parametrize("what", ["rollback", "restore", "retry", "carry", "undo", "optimize"])
def test_rule_13_nothing_brings_back_what_was_taken_down(here, what):
    here("a odd-1").complete()
    toy = here("a odd-1 b", identity=OTHER)
    toy.complete()
    down(here)
    if what == "rollback":
        assert rollback(here.uri, 0) == 3
        assert here("a odd-1").published().manifest.row_counts["explanations"] == 11
    elif what == "restore":  # another program's knows nothing of the list
        table_at(here).restore(0)
        (finding,) = check_output(here.uri)
        assert "may still have what takedown 1 takes down (it is wrong)" in finding.what
        here("a odd-1").complete()
    elif what == "retry":
        toy.heal()
        toy.complete(retry=["odd"])
    elif what == "carry":
        third = IDENTITY.model_copy(update={"config": {"words": 5}})
        here("a odd-1 b", identity=third, carry_from=here.uri).complete()
    elif what == "undo":
        for path in files_of(toy):
            (here.location / path).delete()
        here("a odd-1").run  # noqa: B018  each command mends the table first
        assert open_log(here.location).commit(3).kind == "undo"
    else:
        table_at(here).optimize.compact()
        here("a odd-1 b", identity=OTHER).complete()
    assert not has_pair(here)
    assert check_output(here.uri) == []


"""All that commands change a store by, once there is a table."""


def test_rule_13_takedown_that_comes_while_a_publisher_sleeps_is_heeded(here, monkeypatch):
    for row, identity in ((PAIR, IDENTITY), ({"user": "u-5"}, OTHER)):
        toy = here(identity=identity)
        toy.drive()
        with monkeypatch.context() as patch:
            commit_once(patch, partial(down, here, **row))
            toy.publish()
        assert not has_pair(here)
    assert "u-5" not in [user for user, _ in rows_of(toy.published())]


def test_rule_13_lifted_rows_come_back_with_a_rollback(here):
    here().complete()
    down(here)
    down(here, user="u-4")
    assert lift(here.uri, 1, "it was right", here.storage) == 3
    assert lift(here.uri, 1, "it was right", here.storage) == 3  # is lifted
    assert not has_pair(here)
    rollback(here.uri, 0, here.storage)
    rows = rows_of(here().published())
    assert (("u-3", "a") in rows, "u-4" in dict(rows)) == (True, False)
    assert down(here).number == 4
    assert not has_pair(here)


def test_rule_13_other_programs_read_a_version_without_the_rows(here):
    here = replace(here, uri=str(here.folder / "plain"))  # Polars reads no other names
    here.in_parts(4000)
    here("a b", num_users=30).complete()
    down(here)
    rollback(here.uri, 0)
    delta = deltalake.DeltaTable(here.uri)
    delta.create_checkpoint()
    assert delta.to_pyarrow_table().num_rows == 59
    assert polars.read_delta(here.uri).height == 59
    explanations = delta.to_pyarrow_dataset()  # noqa: F841  the query names it
    assert duckdb.sql("SELECT count(*) FROM explanations").fetchone() == (59,)
    assert here("a b", num_users=30).complete().version == 2


def test_rule_13_bad_takedowns_are_refused_and_change_nothing(here):
    here().complete()
    before = here.location.files()
    for row, phrase, reason in (
        ([], " ", "no"),
        ([PAIR], "x", "no"),
        ([{}], "", "no"),
        ([PAIR], "", " "),
    ):
        with pytest.raises(ValueError, match="expected rows"):
            take_down(here.uri, rows=row, phrase=phrase, reason=reason)
    with raises(TableError, "unknown_takedown", saw=1):
        lift(here.uri, 1, "no")
    assert here.location.files() == before
    other = here.at("other")
    (other.location / "photos.zip").write_bytes(b"x")
    with raises(TableError, "other_files", "photos.zip"):
        down(other)


@pytest.mark.parametrize(
    ("phrase", "text", "is_there"),
    [
        ("tea", "Tea, please.", True),
        ("tea", "A steak.", False),
        ("tea", "Their teas.", False),
        ("happy ending", "a HAPPY\n ending!", True),
        ("happy ending", "a happy, ending", False),
        ("Café", "the cafe\u0301 there", True),
        ("straße", "in the STRASSE", True),
        ("don't", "don\u2019t go", True),
        ("$5", "only US$5 each", True),
        ("$5", "only $50 each", False),
        ("5.0", "a 5x0", False),
    ],
)
def test_rule_13_phrase_is_found_as_whole_words_in_any_case(phrase, text, is_there):
    entry = Entry(phrase=phrase, reason="no", at="")
    taken = Takedowns({1: entry})
    evidence = pa.array([[{"opinion": text}], [], [{"opinion": "calm"}, {"opinion": text}], None])
    texts = pa.array(["calm", text, None, None])
    rows = pa.table({"n": [0, 1, 2, 3], "explanation": texts, "aspects": evidence})
    assert taken.without(rows)["n"].to_pylist() == ([3] if is_there else [0, 1, 2, 3])
    assert taken.of_texts(["calm", text]) == (1 if is_there else None)


class Greeter:
    """Says hello to each row's user."""

    row_errors = ()

    def do(self, rows: pa.Table) -> bulk.Outcome:
        texts = [f"hello {row['user_id']}" for row in rows.select(["user_id"]).to_pylist()]
        ok = rows.select(GREETED.keys).append_column("text", pa.array(texts))
        return bulk.Outcome(ok, GREETED.failed_schema.empty_table(), {})


GREETED = bulk.RowFormat(("user_id", "item"), pa.schema([("text", pa.string())]), pa.schema([]))


def test_rule_13_forgotten_users_are_in_no_byte_of_an_output(here):
    """They come in a table, a takedown, a plan, rejected rows, and what a rollback brings back."""
    ids = {
        "user_id": ["zed-1", "u-2", "zed-1", "zed-3", "zed-1"],
        "item": ["a", "a", "b", "a", None],
    }

    def greet(number: int) -> bulk.BulkRun:
        more = {"config": {"number": number}, "storage": here.storage}
        run = plan_of(here.uri, "explanations", GREETED, pa.table(ids), **more)
        assert bulk.complete(run, PoolHere(), Greeter, "explanations", describe)
        return run

    def has_them() -> bool:
        found = [(here.location / name).read_bytes() for name in here.location.files()]
        tables = [pq.read_table(pa.BufferReader(each)) for each in found if each[:4] == b"PAR1"]
        return b"zed-" in b"".join(found) or "zed-" in str([each.to_pylist() for each in tables])

    greet(0)
    down(here, user_id="zed-1", item="b")
    key = b"k" * 32
    hashes = {hmac.new(key, each.encode(), "sha256").hexdigest() for each in ("zed-1", "zed-3")}
    people = Forgotten(key, frozenset(hashes))
    forget = partial(take_down, here.uri, forgotten=people, reason="gone", storage=here.storage)
    made = forget()
    assert (made.version, made.num_rows) == (2, 2)
    assert forget() == made
    assert rollback(here.uri, 0, here.storage) == 3
    run = greet(1)
    assert run.record.rejected == {"forgotten": 3, "null_id": 1}
    with raises(TableError, "unknown_takedown", saw=2):
        lift(here.uri, 2, "no", here.storage)
    taken = read_takedowns(here.location)
    assert [taken.of_row({"user_id": each}) for each in ("zed-3", "u-2")] == [2, None]
    assert check_output(here.uri, here.storage) == []
    assert has_them()
    assert bulk.delete_runs(here.uri, here.storage) == 2
    bulk.vacuum(here.uri, timedelta(0), here.storage)
    assert not has_them()
    rows = bulk.published(here.uri, storage=here.storage).dataset().to_table().to_pylist()
    assert [row["text"] for row in rows] == ["hello u-2"]
    assert check_output(here.uri, here.storage) == []


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("files", ["one", "many"])
def test_rule_13_takedown_after_another_program_reordered_rows_hides_no_other(here, files):
    if files == "many":
        here.in_parts(4000)
    toy = here("a b c", num_users=30)
    toy.complete()
    table_at(here).optimize.z_order(["item"])
    down(here)
    table, dataset = toy.published(), toy.published().dataset()
    found = [table.find(dataset, "user", [f"u-{number}"]).num_rows for number in range(30)]
    assert found == [3, 3, 3, 2, *[3] * 26]
    theirs = table_at(here).to_pyarrow_dataset()  # which skips files by the log's bounds
    near = (theirs.to_table(filter=pc.field("bucket") == bucket) for bucket in range(32))
    assert sum(rows.num_rows for rows in near) == 89
    for path in files_of(toy):
        rows = pq.read_table(f"{here.uri}/{path}").select(["bucket", "user", "item"]).to_pylist()
        assert not path.startswith("part-0") or rows == sorted(
            rows, key=lambda row: [*row.values()]
        )


def lose(toys: Toys, *names: str) -> None:
    """Delete entries of the list by hand; all of _xrec without names."""
    for name in names or [each for each in toys.location.files() if each.startswith("_xrec/")]:
        (toys.location / name).delete()


@pytest.mark.parametrize("lost", ["all", "first", "last"])
def test_rule_13_nothing_is_committed_while_takedowns_are_gone(here, lost):
    toy = here()
    toy.complete()
    for user in ("u-1", "u-2", "u-3"):
        down(here, user=user)
    first, last = (f"_xrec/takedowns/{number:06d}.json" for number in (1, 3))
    kept = {name: (here.location / name).read_bytes() for name in (first, last)}
    lose(here, *{"all": (), "first": (first,), "last": (last,)}[lost])
    uri, storage = here.uri, here.storage
    people = Forgotten(b"k" * 32, frozenset({"0" * 64}))
    for command in (
        lambda: down(here, user="u-4"),
        lambda: take_down(uri, phrase="tea", reason="no", storage=storage),
        lambda: take_down(uri, forgotten=people, reason="no", storage=storage),
        lambda: lift(uri, 2, "no", storage),
        lambda: rollback(uri, 0, storage),
        lambda: bulk.empty(uri, storage),
        lambda: here(identity=OTHER),
        toy.publish,
    ):
        with raises(TableError, "takedowns_gone"):
            command()
    (finding,) = check_output(uri, storage)
    assert (finding.severity, "takedowns are gone" in finding.what) == ("error", True)
    assert table_at(here).version() == 3
    if lost != "all":  # the file is put back
        (here.location / {"first": first, "last": last}[lost]).write_bytes(
            kept[{"first": first, "last": last}[lost]]
        )
        assert down(here, user="u-4").number == 4
        return
    assert bulk.restart_takedowns(uri, "there is no copy", storage) == 4
    assert bulk.restart_takedowns(uri, "there is no copy", storage) == 4
    assert down(here, user="u-4")[:2] == (5, 4)
    assert {user for user, _ in rows_of(toy.published())}.isdisjoint({"u-1", "u-2", "u-3", "u-4"})
    with raises(TableError, "cannot_be_restored", saw=0):
        rollback(uri, 0, storage)
    table_at(here).restore(0)  # another program's
    with raises(TableError, "no_takedown_gone"):
        bulk.restart_takedowns(uri, "no", storage)
    assert down(here, user="u-5").number == 6
    assert {"u-1", "u-2", "u-3", "u-4", "u-5"}.isdisjoint(
        user for user, _ in rows_of(toy.published())
    )


def test_rule_13_reader_notices_that_the_output_was_made_again(here):
    here().complete()
    down(here, user="u-1")
    known = read_takedowns(here.location)
    assert read_takedowns(here.location, known) is known
    here.location.delete()
    here().complete()
    down(here, user="u-22")
    taken = read_takedowns(here.location, known)
    assert [taken.of_row({"user": each}) for each in ("u-1", "u-22")] == [None, 1]
    lose(here)
    with raises(TableError, "takedowns_gone"):
        read_takedowns(here.location, taken)


@pytest.mark.parametrize("first", ["plan", "publish", "takedown"])
def test_rule_13_lifted_row_comes_back_by_the_next_run(here, first):
    """The takedown came before the row was planned, before it was published, or afterwards."""
    here("x", identity=OTHER).complete()
    toy = here()
    if first == "plan":
        down(here)
        toy = here()
        toy.complete()
    elif first == "publish":
        toy.drive()
        down(here)
        toy.publish()
    else:
        toy.complete()
        down(here)
    down(here, user="u-5")
    assert not has_pair(here)
    output = Output(here.location, "explanations", IDENTITY.config, IDENTITY.inputs)
    assert (output.found().state, output.done() is None) == ("up to date", False)
    lift(here.uri, 1, "it was right", here.storage)
    down(here, user="u-6")  # it makes a version that heeds the lift, and brings nothing back
    assert (output.found().state, output.done()) == ("stale", None)
    manifest = here().complete()
    left = [row for row in toy.rows if row[0] not in ("u-5", "u-6")]
    assert (rows_of(toy.published()), manifest.row_counts["explanations"]) == (left, 30)
    assert (output.found().state, output.done()) == ("up to date", manifest)
    version = toy.published().version
    assert here().complete().version == version  # once is enough


def test_rule_13_retry_does_no_row_that_is_taken_down_or_forgotten(here):
    ids = {"user_id": [f"u-{n}" for n in range(6)], "item": ["odd"] * 6}

    class Done(Greeter):
        seen: ClassVar[list[str]] = []
        is_healed = False

        def do(self, rows: pa.Table) -> bulk.Outcome:
            if self.is_healed:
                Done.seen += rows["user_id"].to_pylist()
                return super().do(rows)
            failed = self.fail(rows.select(GREETED.keys), "task_error", "no")
            return bulk.Outcome(GREETED.ok_schema.empty_table(), failed, {})

        def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
            said = {"reason": reason, "message": message}
            return pa.Table.from_pylist([{**row, **said} for row in rows.to_pylist()])

    run = plan_of(here.uri, "explanations", GREETED, pa.table(ids))
    bulk.complete(run, PoolHere(), Done, "explanations", describe)
    down(here, user_id="u-1")
    nobody = Forgotten(b"k" * 32)
    forgotten = Forgotten(nobody.key, frozenset({nobody.hash_of("u-2")}))
    take_down(here.uri, forgotten=forgotten, reason="gone")
    Done.is_healed = True
    bulk.complete(run, PoolHere(), Done, "explanations", describe, retry=["task_error"])
    assert sorted(Done.seen) == ["u-0", "u-3", "u-4", "u-5"]
    rows = bulk.published(here.uri).dataset().to_table()
    assert sorted(rows["user_id"].to_pylist()) == ["u-0", "u-3", "u-4", "u-5"]


@dataclass(frozen=True)
class Interrupted(LocalLocation):
    """A location on which something happens before the write number `at` below it."""

    meanwhile: Callable[[], object] = field(default=lambda: None)
    at: int = 0
    writes: list[str] = field(default_factory=list)

    def write_bytes(self, data: bytes) -> None:
        self._look()
        super().write_bytes(data)

    def create_bytes(self, data: bytes) -> bool:
        self._look()
        return super().create_bytes(data)

    def _look(self) -> None:
        self.writes.append(self.name)
        if len(self.writes) == self.at:
            self.meanwhile()


def test_rule_13_two_forgets_at_once_leave_no_plain_id_and_no_row(tmp_path):
    """The second comes before each write of the first one, which then may be killed."""
    nobody = Forgotten(b"k" * 32)
    anna, ben = (Forgotten(nobody.key, frozenset({nobody.hash_of(n)})) for n in ("anna", "ben"))
    both = ({"user_id": "anna"}, {"user_id": "ben"}, {"user_id": "carl"})
    for at, is_killed in itertools.product(range(1, 5), (False, True)):
        place = LocalLocation(uri := str(tmp_path / f"{at} {is_killed}"), uri)
        put_on_list(place, rows=both, reason="anna and ben lie")
        put_on_list(place, rows=({"user_id": "ben", "item": "a"},), reason="wrong")

        came: list[int] = []

        def other(
            place: LocalLocation = place, is_killed: bool = is_killed, came: list[int] = came
        ) -> None:
            came.append(forget_on_list(place, ben, "forgotten"))
            if is_killed:
                die_here()

        with suppress(Killed):
            forget_on_list(Interrupted(uri, uri, meanwhile=other, at=at), anna, "forgotten")
        forget_on_list(place, anna, "forgotten")
        if not came:  # there are not so many writes
            forget_on_list(place, ben, "forgotten")
        assert bool(came) == (at <= 3)
        assert not [name for name in place.files() if b"ben" in (place / name).read_bytes()]
        assert not [name for name in place.files() if b"anna" in (place / name).read_bytes()]
        taken = read_takedowns(place)
        users = ("anna", "ben", "carl", "dora")
        is_down = [taken.of_row({"user_id": each}) is not None for each in users]
        assert is_down == [True, True, True, False]


def test_users_are_hashed_once_for_a_key_however_many_were_forgotten():
    """Entries of 300 calls of forget, and a few under the key of another workspace."""
    people = [Forgotten(b"a" * 32), Forgotten(b"b" * 32)]
    entries = {}
    for number in range(1, 331):
        by = people[number > 300]
        hashes = (by.hash_of(f"gone-{number}"),)
        entries[number] = Entry(users=hashes, key=by.key.hex(), reason="forgotten", at="")
    taken = Takedowns(entries)
    assert sorted(each.key for each in taken.forgotten) == [b"a" * 32, b"b" * 32]
    rows = pa.table({"user_id": [f"gone-{n}" for n in (1, 300, 330, 331)] + ["here"]})
    assert taken.without(rows)["user_id"].to_pylist() == ["gone-331", "here"]
    assert [taken.is_forgotten(name) for name in ("gone-7", "gone-310", "gone-331")] == [
        True,
        True,
        False,
    ]


def test_phrases_are_found_by_their_first_word():
    """Among many phrases each is found, also those that begin with no letter or have none."""
    phrases = ["happy ending", "$5 tea", "!!", "\u00e9t\u00e9", *(f"word{n} x" for n in range(300))]
    taken = Takedowns(
        {n: Entry(phrase=phrase, reason="no", at="") for n, phrase in enumerate(phrases, 1)}
    )
    for number, phrase in enumerate(phrases, 1):
        assert taken.of_texts(["calm", f"so {phrase.upper()}"]) == number
    assert taken.of_texts(["happy", "ending", "word7x", "5 tea"]) is None
    assert taken.of_texts(["!! word8 x", "happy ending"]) == 1
    texts = pa.table({"explanation": ["word3 x", "word3", None]})
    assert taken.without(texts)["explanation"].to_pylist() == ["word3", None]
