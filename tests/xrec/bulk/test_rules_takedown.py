"""Rule 13 of xrec.bulk: what is taken down is in no later version, whoever makes it."""

import hmac
import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial, partialmethod
from typing import Any

import deltalake
import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.xrec.bulk.conftest import Toys
from tests.xrec.bulk.test_rules_plan import OTHER
from tests.xrec.bulk.test_rules_publish import commit_once, files_of, table_at
from tests.xrec.bulk.toy_run import (
    IDENTITY,
    Killed,
    PoolHere,
    describe,
    die_here,
    plan_of,
    rows_of,
    toy_rows,
)
from xrec import bulk
from xrec.bulk import check_output, lift, read_takedowns, rollback, take_down
from xrec.bulk.takedown import Entry, Takedowns, put_on_list
from xrec.bulk.upkeep import TakenDown
from xrec.errors import DataError, TableError
from xrec.storage.delta import open_log
from xrec.storage.forgotten import Forgotten
from xrec.storage.local import LocalLocation

PAIR = {"user": "u-3", "item": "a"}
STEPS = {"put_on_list": "upkeep", "open_whole": "upkeep"} | dict.fromkeys(
    ("write_file", "commit_files"), "table"
)
"""Of a takedown, with the modules that call them."""


def down(toys: Toys, **row: str) -> TakenDown:
    return take_down(toys.uri, rows=[row or PAIR], reason="it is wrong", storage=toys.storage)


def has_pair(toys: Toys) -> bool:
    """Whether another program finds the pair in the newest version."""
    rows = table_at(toys).to_pyarrow_table(columns=[*PAIR]).to_pylist()
    return PAIR in rows


def test_rule_13_what_is_taken_down_before_there_is_a_table_is_never_published(toys):
    made = down(toys)
    assert (made.number, made.num_rows, made.version) == (1, 0, 0)
    assert down(toys) == made
    toy = toys()
    record = toy.run.record
    assert (record.num_rows, record.rejected, record.num_rejected) == (35, {"taken_down": 1}, 0)
    manifest = toy.complete()
    left = [row for row in toy.rows if row != ("u-3", "a")]
    assert (rows_of(toy.published()), manifest.row_counts["explanations"]) == (left, 35)
    assert toys().complete() == toy.published().manifest
    assert check_output(toys.uri, toys.storage) == []
    down(toys, item="b")
    with pytest.raises(DataError, match="no rows to do; all 12 are taken down"):
        toys("b", identity=OTHER)


def test_rule_13_takedown_writes_anew_only_the_files_that_have_the_rows(toys):
    toys.in_parts(4000)
    toys.patch.setattr("xrec.bulk.request.ROWS_PER_BUCKET", 4)
    toy = toys("a odd-1 b", num_users=30)
    toy.complete()
    before = set(files_of(toy))
    made = down(toys)
    after = set(files_of(toy))
    assert (made.num_rows, made.version, len(before - after), len(after - before)) == (1, 1, 1, 1)
    assert len(before & after) > 3
    down(toys, item="odd-1")
    table = toy.published()
    assert table.manifest.row_counts == {"explanations": 59, "failed": 0}
    assert rows_of(table) == [row for row in toy.rows if row != ("u-3", "a") and row[1] != "odd-1"]
    assert table.find(table.dataset(), "user", ["u-3"]).num_rows == 1
    assert check_output(toys.uri, toys.storage) == []
    assert toys("a odd-1 b", num_users=30).complete() == table.manifest


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


def test_rule_13_takedown_that_comes_while_a_publisher_sleeps_is_heeded(toys, monkeypatch):
    for row, identity in ((PAIR, IDENTITY), ({"user": "u-5"}, OTHER)):
        toy = toys(identity=identity)
        toy.drive()
        with monkeypatch.context() as patch:
            commit_once(patch, partial(down, toys, **row))
            toy.publish()
        assert not has_pair(toys)
    assert "u-5" not in [user for user, _ in rows_of(toy.published())]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("by", ["again", "publish"])
def test_rule_13_takedown_that_is_killed_is_completed_by_the_next_command(here, step, when, by):
    here("a odd-1").complete()
    holder = sys.modules[f"xrec.bulk.{STEPS[step]}"]
    original: Callable[..., Any] = getattr(holder, step)

    def killed(*arguments: Any, **options: Any) -> Any:
        if when == "after":
            original(*arguments, **options)
        die_here()

    with here.patch.context() as patch:
        patch.setattr(holder, step, killed)
        with pytest.raises(Killed):
            down(here)
    is_listed = bool(read_takedowns(here.location).active)
    assert is_listed == ((step, when) != ("put_on_list", "before"))
    if by == "again":
        assert down(here).number == 1
    else:
        here("a odd-1").complete()
    assert has_pair(here) == (by == "publish" and not is_listed)
    assert check_output(here.uri) == []


WRITES = {
    **dict.fromkeys(("write_bytes", "create_bytes"), LocalLocation),
    **dict.fromkeys(("create_write_transaction", "restore"), deltalake.DeltaTable),
}
"""All that commands change a store by, once there is a table."""


def killed_at(toys: Toys, place: int, when: str, work: Callable[[], object]) -> bool:
    """Do it, and die before or after one of its writes; False if there are not so many."""
    count = itertools.count()

    def dying(original: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        is_last = next(count) == place
        if is_last and when == "before":
            die_here()
        made = original(*arguments, **options)
        if is_last:
            die_here()
        return made

    with toys.patch.context() as patch:
        for name, holder in WRITES.items():
            patch.setattr(holder, name, partialmethod(partial(dying, getattr(holder, name))))
        try:
            work()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("when", ["before", "after"])
def test_rule_13_publish_killed_at_any_write_goes_on_without_what_is_taken_down(here, when):
    here.in_parts(4000)
    place, is_killed = 0, True
    while is_killed:
        toys = here.at(f"{place}")
        toys("a odd-1").complete()
        toy = toys("a b", identity=OTHER)
        toy.drive()
        put_on_list(toys.location, rows=(PAIR,), reason="its command was killed here")
        is_killed = killed_at(here, place, when, toy.publish)
        # Readers have a version, whole, of one run: without the pair unless it is the earliest one.
        shown, version = rows_of(toy.published(), "ok"), toy.published().version
        first = [row for row in sorted(toy_rows("a", 12)) if version == 0 or row != ("u-3", "a")]
        left = [row for row in toy.rows if row != ("u-3", "a")]
        assert shown in (first, left)
        toys("a b", identity=OTHER).publish()
        assert rows_of(toy.published()) == left
        assert check_output(toys.uri) == []
        place += 1
    assert place > 5


def test_rule_13_lifted_rows_come_back_with_a_rollback(toys):
    toys().complete()
    down(toys)
    down(toys, user="u-4")
    assert lift(toys.uri, 1, "it was right", toys.storage) == 3
    assert lift(toys.uri, 1, "it was right", toys.storage) == 3  # is lifted
    assert not has_pair(toys)
    rollback(toys.uri, 0, toys.storage)
    rows = rows_of(toys().published())
    assert (("u-3", "a") in rows, "u-4" in dict(rows)) == (True, False)
    assert down(toys).number == 4
    assert not has_pair(toys)


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
    with pytest.raises(TableError, match="takedown 1 is not there: expected one of: none"):
        lift(here.uri, 1, "no")
    assert here.location.files() == before
    other = here.at("other")
    (other.location / "photos.zip").write_bytes(b"x")
    with pytest.raises(TableError, match=r"holds other files, such as photos\.zip"):
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


def test_rule_13_forgotten_users_are_in_no_byte_of_an_output(toys):
    """They come in a table, a takedown, a plan, rejected rows, and what a rollback brings back."""
    ids = {
        "user_id": ["zed-1", "u-2", "zed-1", "zed-3", "zed-1"],
        "item": ["a", "a", "b", "a", None],
    }

    def greet(number: int) -> bulk.BulkRun:
        more = {"config": {"number": number}, "storage": toys.storage}
        run = plan_of(toys.uri, "explanations", GREETED, pa.table(ids), **more)
        assert bulk.complete(run, PoolHere(), Greeter, "explanations", describe)
        return run

    def has_them() -> bool:
        found = [(toys.location / name).read_bytes() for name in toys.location.files()]
        tables = [pq.read_table(pa.BufferReader(each)) for each in found if each[:4] == b"PAR1"]
        return b"zed-" in b"".join(found) or "zed-" in str([each.to_pylist() for each in tables])

    greet(0)
    down(toys, user_id="zed-1", item="b")
    key = b"k" * 32
    hashes = {hmac.new(key, each.encode(), "sha256").hexdigest() for each in ("zed-1", "zed-3")}
    people = Forgotten(key, frozenset(hashes))
    forget = partial(take_down, toys.uri, forgotten=people, reason="gone", storage=toys.storage)
    made = forget()
    assert (made.version, made.num_rows) == (2, 2)
    assert forget() == made
    assert rollback(toys.uri, 0, toys.storage) == 3
    run = greet(1)
    assert run.record.rejected == {"forgotten": 3, "null_id": 1}
    with pytest.raises(TableError, match="takedown 2 is not there: expected one of: 1"):
        lift(toys.uri, 2, "no", toys.storage)
    taken = read_takedowns(toys.location)
    assert [taken.of_row({"user_id": each}) for each in ("zed-3", "u-2")] == [2, None]
    assert check_output(toys.uri, toys.storage) == []
    assert has_them()
    assert bulk.delete_runs(toys.uri, toys.storage) == 2
    bulk.vacuum(toys.uri, timedelta(0), toys.storage)
    assert not has_them()
    rows = bulk.published(toys.uri, storage=toys.storage).dataset().to_table().to_pylist()
    assert [row["text"] for row in rows] == ["hello u-2"]
    assert check_output(toys.uri, toys.storage) == []
