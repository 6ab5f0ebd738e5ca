"""Rule 13 of xrec.bulk: no later version has what was taken down, whoever makes it."""

import hmac
import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.errors import raises
from tests.world.here import Killed, plan_of
from tests.xrec.bulk.toy_run import (
    FORMAT,
    IDENTITY,
    OTHER,
    Toy,
    Toys,
    commit_once,
    die_here,
    files_of,
    rows_of,
    table_at,
)
from xrec import bulk
from xrec.bulk.log import open_log
from xrec.bulk.takedown import Entry, Takedowns, forget_on_list, put_on_list
from xrec.bulk.upkeep import TakenDown
from xrec.errors import DataError, TableError
from xrec.jobs.output import Output
from xrec.storage import Forgotten, LocalLocation

PAIR = {"user": "u-3", "item": "a"}


def down(toys: Toys, **row: str) -> TakenDown:
    return bulk.take_down(toys.uri, rows=[row or PAIR], reason="it is wrong")


def has_pair(toys: Toys) -> bool:
    rows = table_at(toys).to_pyarrow_table(columns=[*PAIR]).to_pylist()
    return PAIR in rows


def test_rule_13_row_taken_down_before_the_table_exists_is_never_published(here):
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
    assert bulk.check_output(here.uri) == []
    down(here, item="b")
    with raises(DataError, "no_rows", "taken_down", 12):
        here("b", identity=OTHER)


def test_rule_13_takedown_rewrites_only_the_files_that_have_its_rows(here):
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
    assert here("a odd-1 b", num_users=30).complete() == table.manifest


@pytest.mark.parametrize("what", ["rollback", "restore", "carry", "undo"])
def test_rule_13_nothing_brings_back_what_was_taken_down(here, what):
    here("a odd-1").complete()
    toy = here("a odd-1 b", identity=OTHER)
    toy.complete()
    down(here)
    if what == "rollback":
        assert bulk.rollback(here.uri, 0) == 3
        assert here("a odd-1").published().manifest.row_counts["explanations"] == 11
    elif what == "restore":  # another program does not know the list
        table_at(here).restore(0)
        (finding,) = bulk.check_output(here.uri)
        assert "may still have rows of takedown 1 (it is wrong)" in finding.what
        here("a odd-1").complete()
    elif what == "carry":
        third = IDENTITY.model_copy(update={"config": {"words": 5}})
        here("a odd-1 b", identity=third, carry_from=here.uri).complete()
    else:
        for path in files_of(toy):
            (here.location / path).delete()
        here("a odd-1").run  # noqa: B018  each command fixes the table first
        assert open_log(here.location).commit(3).kind == "undo"
    assert not has_pair(here)
    assert bulk.check_output(here.uri) == []


def test_rule_13_takedown_made_while_a_publisher_is_suspended_is_honored(here):
    for row, identity in ((PAIR, IDENTITY), ({"user": "u-5"}, OTHER)):
        toy = here(identity=identity)
        toy.drive()
        with here.patch.context() as patch:
            commit_once(patch, partial(down, here, **row))
            toy.publish()
        assert not has_pair(here)
    assert "u-5" not in dict(rows_of(toy.published()))


@pytest.mark.parametrize(
    ("rows", "phrase", "reason"),
    [([], " ", "no"), ([PAIR], "x", "no"), ([{}], "", "no"), ([PAIR], "", " ")],
)
def test_rule_13_invalid_takedown_is_refused_and_changes_nothing(disk, rows, phrase, reason):
    with pytest.raises(ValueError, match="expected rows"):
        bulk.take_down(disk.uri, rows=rows, phrase=phrase, reason=reason)
    with raises(TableError, "unknown_takedown", saw=1):
        bulk.lift(disk.uri, 1, "no")
    assert disk.location.files() == []


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
        ("!!", "so!!", True),
    ],
)
def test_rule_13_phrase_matches_whole_words_in_any_case(phrase, text, is_there):
    entry = Entry(phrase=phrase, reason="no", at="")
    taken = Takedowns({1: entry})
    evidence = pa.array([[{"opinion": text}], [], [{"opinion": "calm"}, {"opinion": text}], None])
    texts = pa.array(["calm", text, None, None])
    rows = pa.table({"n": [0, 1, 2, 3], "explanation": texts, "aspects": evidence})
    assert taken.without(rows)["n"].to_pylist() == ([3] if is_there else [0, 1, 2, 3])
    assert taken.of_texts(["calm", text]) == (1 if is_there else None)


BY_USER_ID = replace(FORMAT, keys=("user_id", "item"))  # only a user_id can be forgotten


def forgotten(*users: str) -> Forgotten:
    key = b"k" * 32
    return Forgotten(key, frozenset(hmac.new(key, u.encode(), "sha256").hexdigest() for u in users))


def test_rule_13_forgotten_users_are_in_no_byte_of_an_output(here):
    """They were in the table, a takedown, a plan, rejected rows, and a restored version."""
    ids = {
        "user_id": ["zed-1", "u-2", "zed-1", "zed-3", "zed-1"],
        "item": ["a", "a", "b", "a", None],
    }

    def publish(number: int) -> Toy:
        run = plan_of(here.uri, "explanations", BY_USER_ID, pa.table(ids), {"number": number})
        toy = Toy(run, [], here.folder)
        assert toy.complete(task=toy.make_task(format=BY_USER_ID))
        return toy

    def has_them() -> bool:
        found = [(here.location / name).read_bytes() for name in here.location.files()]
        tables = [pq.read_table(pa.BufferReader(each)) for each in found if each[:4] == b"PAR1"]
        return b"zed-" in b"".join(found) or "zed-" in str([each.to_pylist() for each in tables])

    publish(0)
    down(here, user_id="zed-1", item="b")
    forget = partial(bulk.take_down, here.uri, forgotten=forgotten("zed-1", "zed-3"), reason="gone")
    made = forget()
    assert (made.version, made.num_rows, forget()) == (2, 2, made)
    assert bulk.rollback(here.uri, 0) == 3
    toy = publish(1)
    assert toy.run.record.rejected == {"forgotten": 3, "null_id": 1}
    with raises(TableError, "unknown_takedown", saw=2):
        bulk.lift(here.uri, 2, "no")
    taken = bulk.read_takedowns(here.location)
    assert [taken.of_row({"user_id": each}) for each in ("zed-3", "u-2")] == [2, None]
    assert (bulk.check_output(here.uri), has_them()) == ([], True)
    assert bulk.delete_runs(here.uri) == 2
    bulk.vacuum(here.uri, timedelta(0))
    assert (bulk.check_output(here.uri), has_them()) == ([], False)
    assert rows_of(toy.published(), keys=BY_USER_ID.keys) == [("u-2", "a")]


def test_rule_13_takedown_after_another_program_reordered_rows_hides_no_other(here):
    here.in_parts(4_000)
    here.patch.setattr("xrec.bulk.table.ROWS_PER_GROUP", 8)
    here.patch.setattr("xrec.bulk.request.ROWS_PER_BUCKET", 3)
    toy = here("a b c", num_users=30)
    toy.complete()
    table_at(here).optimize.z_order(["item"])
    down(here)
    table, dataset = toy.published(), toy.published().dataset()
    found = [table.find(dataset, "user", [f"u-{number}"]).num_rows for number in range(30)]
    assert found == [3, 3, 3, 2, *[3] * 26]
    theirs = table_at(here).to_pyarrow_dataset()  # skips files by the log's bounds
    near = (theirs.to_table(filter=pc.field("bucket") == bucket) for bucket in range(32))
    assert sum(rows.num_rows for rows in near) == 89
    for path in files_of(toy):
        rows = pq.read_table(f"{here.uri}/{path}").select(["bucket", "user", "item"]).to_pylist()
        assert not path.startswith("part-0") or rows == sorted(rows, key=lambda r: [*r.values()])


def users_of(toy: Toy) -> set[str]:
    return {user for user, _ in rows_of(toy.published())}


@pytest.mark.parametrize("lost", [(), (1,), (3,)])
def test_rule_13_nothing_is_committed_while_takedowns_are_missing(here, lost):
    """Entries of the list are deleted by hand, or all of `_xrec`."""
    toy, uri = here(), here.uri
    toy.complete()
    for user in ("u-1", "u-2", "u-3"):
        down(here, user=user)
    names = [f"_xrec/takedowns/{number:06d}.json" for number in lost]
    kept = {name: (here.location / name).read_bytes() for name in names}
    for name in names or [each for each in here.location.files() if each.startswith("_xrec/")]:
        (here.location / name).delete()
    for command in (
        lambda: down(here, user="u-4"),
        lambda: bulk.take_down(uri, phrase="tea", reason="no"),
        lambda: bulk.take_down(uri, forgotten=forgotten("u-5"), reason="no"),
        lambda: bulk.lift(uri, 2, "no"),
        lambda: bulk.rollback(uri, 0),
        lambda: bulk.empty(uri),
        lambda: here(identity=OTHER),
        toy.publish,
    ):
        with raises(TableError, "takedowns_gone"):
            command()
    (finding,) = bulk.check_output(uri)
    assert (finding.severity, "takedowns are missing" in finding.what) == ("error", True)
    assert table_at(here).version() == 3
    for name, content in kept.items():  # restored from a copy
        (here.location / name).write_bytes(content)
        assert down(here, user="u-4").number == 4
    if lost:
        return
    for _ in range(2):
        assert bulk.restart_takedowns(uri, "there is no copy") == 4
    assert down(here, user="u-4")[:2] == (5, 4)
    assert users_of(toy).isdisjoint({"u-1", "u-2", "u-3", "u-4"})
    with raises(TableError, "cannot_be_restored", saw=0):
        bulk.rollback(uri, 0)
    table_at(here).restore(0)  # another program's
    with raises(TableError, "no_takedown_gone"):
        bulk.restart_takedowns(uri, "no")
    assert down(here, user="u-5").number == 6
    assert users_of(toy).isdisjoint({"u-1", "u-2", "u-3", "u-4", "u-5"})


@pytest.mark.parametrize("first", ["plan", "publish", "takedown"])
def test_rule_13_lifted_row_comes_back_with_the_next_run(here, first):
    """The row is taken down before it is planned, before it is published, or afterwards."""
    here("x", identity=OTHER).complete()
    toy = here()
    if first == "takedown":
        toy.complete()
    elif first == "publish":
        toy.drive()
    down(here)
    here().complete()
    down(here, user="u-5")
    assert not has_pair(here)
    output = Output(here.location, "explanations", IDENTITY.config, IDENTITY.inputs)
    assert (output.found().state, output.done() is None) == ("up to date", False)
    for _ in range(2):
        assert bulk.lift(here.uri, 1, "it was right") == 3
    down(here, user="u-6")  # this version honors the lift but brings nothing back
    assert (output.found().state, output.done()) == ("stale", None)
    manifest = here().complete()
    left = [row for row in toy.rows if row[0] not in ("u-5", "u-6")]
    assert (rows_of(toy.published()), manifest.row_counts["explanations"]) == (left, 30)
    assert (output.found().state, output.done()) == ("up to date", manifest)
    assert here().complete().version == manifest.version
    assert down(here).number == 5
    assert not has_pair(here)


def test_rule_13_retry_skips_rows_that_are_taken_down_or_forgotten(here):
    toy = here("odd-1", num_users=6, format=BY_USER_ID)
    task = toy.make_task(format=BY_USER_ID)
    toy.complete(task=task)
    down(here, user_id="u-1")
    bulk.take_down(here.uri, forgotten=forgotten("u-2"), reason="gone")
    toy.heal()
    toy.complete(task=task, retry=["odd"])
    left = ["u-0", "u-3", "u-4", "u-5"]
    assert toy.run.passes()[1].plan.rows(0)["user_id"].to_pylist() == left
    assert rows_of(toy.published(), "ok", BY_USER_ID.keys) == [(user, "odd-1") for user in left]


def before_write(patch: pytest.MonkeyPatch, number: int, meanwhile: Callable[[], object]) -> None:
    """Call `meanwhile` before the write with this number, counted from now."""
    count = itertools.count(1)

    def counted(write: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(location: LocalLocation, data: bytes) -> Any:
            if next(count) == number:
                meanwhile()
            return write(location, data)

        return wrapped

    for name in ("write_bytes", "create_bytes"):
        patch.setattr(LocalLocation, name, counted(getattr(LocalLocation, name)))


def test_rule_13_two_forgets_at_once_leave_no_plain_id_and_no_row(disk, monkeypatch):
    """The second runs before one of the writes of the first, which may then be killed."""
    anna, ben = forgotten("anna"), forgotten("ben")
    both = ({"user_id": "anna"}, {"user_id": "ben"}, {"user_id": "carl"})
    for at, is_killed in itertools.product(range(1, 5), (False, True)):
        place = disk.location / f"{at} {is_killed}"
        put_on_list(place, Entry(rows=both, reason="anna and ben lie"))
        put_on_list(place, Entry(rows=({"user_id": "ben", "item": "a"},), reason="wrong"))
        came: list[int] = []

        def other(place: Any = place, is_killed: bool = is_killed, came: Any = came) -> None:
            came.append(forget_on_list(place, ben, "forgotten"))
            if is_killed:
                die_here()

        with suppress(Killed), monkeypatch.context() as patch:
            before_write(patch, at, other)
            forget_on_list(place, anna, "forgotten")
        forget_on_list(place, anna, "forgotten")
        if not came:  # there are fewer writes
            forget_on_list(place, ben, "forgotten")
        assert bool(came) == (at <= 3)
        content = b"".join((place / name).read_bytes() for name in place.files())
        assert not any(name in content for name in (b"anna", b"ben"))
        taken = bulk.read_takedowns(place)
        users = ("anna", "ben", "carl", "dora")
        is_down = [taken.of_row({"user_id": each}) is not None for each in users]
        assert is_down == [True, True, True, False]


def test_users_are_hashed_once_per_key_however_many_were_forgotten():
    """There are 300 entries under one key, and 30 under the key of another workspace."""
    people = [Forgotten(b"a" * 32), Forgotten(b"b" * 32)]
    entries = {}
    for number in range(1, 331):
        by = people[number > 300]
        hashes = (by.hash_of(f"gone-{number}"),)
        entries[number] = Entry(users=hashes, key=by.key.hex(), reason="forgotten", at="")
    taken = Takedowns(entries)
    assert sorted(each.key for each in taken.forgotten) == [b"a" * 32, b"b" * 32]
    users = ["gone-1", "gone-300", "gone-330", "gone-331", "here"]
    assert taken.without(pa.table({"user_id": users}))["user_id"].to_pylist() == users[3:]
    assert [taken.is_forgotten(user) for user in users] == [True] * 3 + [False] * 2
