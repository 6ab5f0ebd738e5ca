"""Rule 8 of xrec.bulk: publishing is one commit; what is in the files, and what readers take."""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.errors import raises
from tests.world.here import PoolHere, plan_of
from tests.world.store import requests_of
from tests.xrec.bulk.conftest import Toys
from tests.xrec.bulk.toy_run import (
    FORMAT,
    IDENTITY,
    OTHER,
    Toy,
    ToyTask,
    commit_once,
    files_of,
    finished,
    rows_of,
    table_at,
)
from xrec import bulk
from xrec.bulk import delete_runs, empty, published, rollback, vacuum
from xrec.bulk.log import Commit, open_log
from xrec.bulk.table import open_whole, replace_content
from xrec.errors import ArtifactNotFoundError, GateError, StorageError, TableError
from xrec.storage import LocalLocation


def two_runs(toys: Toys) -> tuple[Toy, Toy]:
    runs = toys(), toys("c d", identity=OTHER)
    for toy in runs:
        toy.drive()
    return runs


def test_rule_8_publish_is_one_version_and_doing_it_again_changes_nothing(there):
    toy = there("a odd-1")
    with raises(ArtifactNotFoundError, "no_table"):
        toy.published()
    manifest = toy.complete()
    assert (manifest.version, manifest.files) == (0, {})
    for same in (toy, there("a odd-1")):
        assert same.publish() == same.complete() == same.published().manifest == manifest
    assert table_at(there).version() == 0
    toy.heal()
    second = toy.complete(retry=["odd"])
    assert (second.version, second.run) == (1, manifest.run)
    assert second.fingerprint != manifest.fingerprint
    assert rows_of(toy.published(), "ok") == toy.rows
    assert toy.published(0).manifest == manifest
    with raises(TableError, "no_version", saw=2):
        toy.published(2)


def test_rule_8_publishers_at_once_publish_once(here):
    one, other = two_runs(here)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(toy.publish) for toy in (one, other, one, other)]
    errors = [str(future.exception()) for future in futures]
    assert any("came while this job was at work" in error for error in errors)
    toy = (one, other)[errors.index("None") % 2]
    assert table_at(here).version() == 0
    assert rows_of(toy.published()) == toy.rows


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("where", ["before", "after"])
def test_rule_8_lost_answer_of_commit_is_found_out(here, where, is_first):
    toy, lost = here("a odd-1"), Mock(side_effect=StorageError("no answer"))
    if not is_first:
        toy.complete()
    toy.drive(retry=["odd"])
    commit_once(here.patch, **{"before": lambda: None, where: lost})
    assert toy.publish().version == table_at(here).version() == (0 if is_first else 1)
    assert rows_of(toy.published()) == toy.rows


@pytest.mark.parametrize("what", ["publish", "rollback", "empty"])
def test_rule_8_what_came_during_the_work_is_not_undone(here, what):
    for items in ("a", "a b"):
        here(items, identity=OTHER).complete()
    toy, other = here(), here("c", identity=OTHER)
    toy.drive()
    {
        "publish": other.complete,
        "rollback": lambda: rollback(here.uri, 0),
        "empty": lambda: empty(here.uri),
    }[what]()
    for _ in range(2):
        with raises(TableError, "table_changed", what, 2):
            toy.publish()
    assert here().complete() is not None  # the same command
    assert rows_of(toy.published()) == toy.rows


@pytest.mark.parametrize(
    "what", ["restored by others", "retry", "delete_runs", "vacuum", "emptied twice"]
)
def test_rule_8_run_that_was_taken_back_stays_so_whatever_comes_between(here, what):
    here().complete()
    bad = here("c odd-1", identity=OTHER)
    bad.complete()
    by = table_at(here).restore if what == "restored by others" else partial(rollback, here.uri)
    by(0)
    retry = ["odd"] if what == "retry" else []
    bad.heal()
    if what == "delete_runs":
        delete_runs(here.uri)
    elif what == "vacuum":
        third = IDENTITY.model_copy(update={"config": {"words": 5}})
        here("d", identity=third).complete()
        rollback(here.uri, 0)
        vacuum(here.uri, timedelta(0))
    elif what == "emptied twice":
        empty(here.uri)
        here("d").complete()
        empty(here.uri)
    shown = table_at(here).to_pyarrow_table()
    bad = here("c odd-1", identity=OTHER)
    with raises(GateError, "taken_back"):
        bad.complete(retry=retry)
    assert table_at(here).to_pyarrow_table() == shown
    assert bad.complete(republish=True, retry=retry) is not None
    here("e f").complete()
    bad = here("c odd-1", identity=OTHER)
    assert bad.complete() is not None  # it was replaced, and not taken back
    assert rows_of(bad.published()) == bad.rows


def test_rule_8_publish_that_fails_late_keeps_the_files_that_it_wrote(here):
    here.in_parts(4000)
    toy = here("a b", num_users=30)
    toy.drive()
    lost = Mock(side_effect=StorageError("no answer"))
    commit_once(here.patch, lost)
    assert toy.publish().version == 0
    parts = [name for name in here.location.sizes() if name.startswith("part-")]
    assert sorted(parts) == sorted(files_of(toy))
    assert len(parts) > 3


def test_rule_8_version_is_not_undone_for_a_stale_listing(here):
    """Listings lack the table's files, as those of NFS may for a while."""
    toy, sizes = here(), LocalLocation.sizes
    toy.complete()
    file = here.location / files_of(toy)[0]

    def stale(location: LocalLocation) -> dict[str, int]:
        return {n: size for n, size in sizes(location).items() if not n.endswith(".parquet")}

    here.patch.setattr(LocalLocation, "sizes", stale)
    assert open_whole(here.location).version == 0
    file.delete()
    assert open_whole(here.location).version == 1


def test_rule_8_version_whose_files_are_gone_is_undone(here):
    first, toy = two_runs(here)
    first.publish()
    toy = here("c d", identity=OTHER)
    for number in (1, 3):  # what is published, and what is restored
        toy.publish()
        for path in files_of(toy):
            (here.location / path).delete()
        assert toy.complete().version == number + 2
        assert rows_of(toy.published(number + 1)) == first.rows
        assert rows_of(toy.published()) == toy.rows
    for name in here.location.sizes():
        (here.location / name).delete()  # no version is whole
    assert here().complete().version == 7
    with raises(ArtifactNotFoundError, "nothing_published", saw=None):
        published(here.uri, version=6, storage=here.storage)


def test_rule_8_undo_that_is_not_sound_undoes_nothing(here):
    """A sleeper's undo came into the table from another one."""
    first, _ = two_runs(here)
    first.publish()
    here("c d", identity=OTHER).publish()
    log = open_log(first.run.output)
    commit = Commit(kind="undo", table="of another", live="its files", target=0)
    replace_content(log.location, log, [], pa.schema(log.delta.schema().to_arrow()), commit)
    ((version, _), *_) = open_log(log.location).deciding()
    assert version == 1


def test_rule_8_publish_of_other_columns_replaces_them(here):
    here().complete()
    wider = replace(FORMAT, ok=FORMAT.ok.append(pa.field("more", pa.string())))

    class Wider(ToyTask):
        def do(self, rows: pa.Table) -> bulk.Outcome:
            outcome = super().do(rows)
            more = pa.array(["m"] * len(outcome.ok))
            return replace(outcome, ok=outcome.ok.append_column("more", more))

    toy = here(identity=OTHER, format=wider)
    toy.complete(task=toy.make_task(Wider))
    assert set(toy.published().dataset().to_table()["more"].to_pylist()) == {"m"}
    assert rows_of(toy.published()) == toy.rows


def test_rule_8_files_are_in_the_tables_order_in_row_groups_of_some_size(here):
    here.patch.setattr("xrec.bulk.table.ROWS_PER_GROUP", 10)
    here.patch.setattr("xrec.bulk.request.ROWS_PER_BUCKET", 4)
    toy = finished(here, "a b odd-1", num_users=60, rows_per_chunk=7)
    (path,) = files_of(toy)
    file = pq.ParquetFile(Path(here.uri, path))
    groups = [file.read_row_group(number) for number in range(file.num_row_groups)]
    assert len(groups) > 5
    assert all(10 <= group.num_rows <= 20 for group in groups[:-1])
    rows = [row for group in groups for row in group.to_pylist()]
    assert [row["bucket"] for row in rows] == sorted(row["bucket"] for row in rows)
    users = [user for user, _ in itertools.groupby(row["user"] for row in rows)]
    assert len(users) == 60  # the rows of each lie together
    assert file.metadata.row_group(0).column(0).has_column_index
    texts = [path.read_text() for path in Path(here.uri, "_delta_log").glob("*.json")]
    assert not any("u-1" in text for text in texts)  # ids are deleted with the files
    adds = [json.loads(line).get("add") for text in texts for line in text.splitlines()]
    for stats in (json.loads(add["stats"]) for add in adds if add):
        assert (stats["minValues"], stats["numRecords"]) == ({"bucket": rows[0]["bucket"]}, 180)


def test_rule_8_parts_and_passes_of_any_size_have_each_row_once(here):
    here.in_parts(10_000)
    toy = here("a odd-1 dull-2 b", num_users=20, rows_per_chunk=9)
    manifests = [toy.complete()]
    for retry in (["odd", "dull"], ["dull"], ["odd"]):  # their chunks have rows of several parts
        manifests.append(toy.complete(retry=retry))
        toy.heal()
        assert rows_of(toy.published()) == toy.rows
        assert len(files_of(toy)) > 3
    assert [manifest.row_counts["failed"] for manifest in manifests] == [40, 40, 20, 0]
    assert [sum(manifest.row_counts.values()) for manifest in manifests] == [80] * 4
    assert manifests[-1].metrics["costs"]["tokens"] == 3 * 80


WORDS = ["a", "bcd", "aa", "-", "--", *(f"w{number}" for number in range(100, 112))]
GOOD_WORDS = [word for word in WORDS if word.strip("-")]
LETTERS = bulk.RowFormat(
    keys=("word",),
    ok=pa.schema([("place", pa.int32()), ("letter", pa.string())]),
    failed=pa.schema([]),
    ok_keys=("place",),
    reasons=("empty",),
)


@dataclass
class Spell:
    """Cuts words into letters; words of dashes have none, unless they are healed."""

    healed: tuple[str, ...] = ()
    row_errors: tuple[type[Exception], ...] = ()

    def do(self, rows: pa.Table) -> bulk.Outcome:
        words = rows["word"].to_pylist()
        empty = [word for word in words if word.strip("-") == "" and word not in self.healed]
        good = [word for word in words if word not in empty]
        letters = [dict(zip(LETTERS.ok_schema.names, row, strict=True)) for row in letters_of(good)]
        failed = pa.table({"word": pa.array(empty, pa.string())})
        return bulk.Outcome(
            pa.Table.from_pylist(letters[::-1], LETTERS.ok_schema),
            self.fail(failed, "empty", "no letter"),
        )

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        failed = [{**row, "reason": reason, "message": message} for row in rows.to_pylist()]
        return pa.Table.from_pylist(failed, LETTERS.failed_schema)


def spelling(place: Toys) -> Toy:
    words = pa.table({"word": WORDS})
    run = plan_of(place.uri, "spelling", LETTERS, words, rows_per_chunk=4, storage=place.storage)
    return Toy(run, [], place.folder)


def letters_of(words: list[str]) -> list[tuple[str, int, str]]:
    return sorted((word, place, letter) for word in words for place, letter in enumerate(word))


def ok_rows(toy: Toy) -> list[tuple[str, int, str]]:
    table = toy.published().dataset().to_table(columns=["word", "place", "letter"])
    rows = [(*row.values(),) for row in table.to_pylist()]
    assert all(row[1] == 0 or rows[n - 1][:2] == (row[0], row[1] - 1) for n, row in enumerate(rows))
    return sorted(rows)


def test_rule_7_retry_replaces_a_failed_row_by_all_of_its_rows(here):
    here.in_parts(3000)
    toy = spelling(here)
    manifest = toy.complete(task=Spell)
    assert ok_rows(toy) == letters_of(GOOD_WORDS)
    assert manifest.row_counts == {"explanations": 15, "failed": 2}
    failed = toy.published().dataset(status="failed").to_table()
    assert sorted(failed["word"].to_pylist()) == ["-", "--"]
    assert failed["place"].null_count == 2
    manifest = toy.complete(task=lambda: Spell(healed=("--",)), retry=["empty"])
    assert ok_rows(toy) == letters_of([*GOOD_WORDS, "--"])
    assert manifest.row_counts == {"explanations": 16, "failed": 1}
    summary = bulk.Survey(toy.run).summary
    assert (summary.num_ok, summary.num_ok_rows, summary.num_rows) == (16, 56, 17)


@pytest.mark.parametrize("what", ["a row twice", "a word lost"])
def test_rule_3_task_that_doubles_a_row_or_loses_a_key_is_an_error(here, what):
    class Wrong(Spell):
        def do(self, rows: pa.Table) -> bulk.Outcome:
            outcome = super().do(rows)
            twice = outcome.ok.take([0, *range(len(outcome.ok))])
            lost = outcome.ok.filter(pc.not_equal(outcome.ok["word"], outcome.ok["word"][0]))
            return replace(outcome, ok=twice if what == "a row twice" else lost)

    with pytest.raises(ValueError, match="expected each row once"):
        spelling(here).drive(task=Wrong)


@pytest.mark.parametrize("by", ["nobody", "z_order"])
def test_rule_13_takedown_lowers_each_row_count_by_its_own_unit(here, by):
    toy = spelling(here)
    counts = {"letters": "num_ok_rows", "words": "num_rows", "empty": "num_failed", "fixed": 7}
    bulk.complete(toy.run, PoolHere(), Spell, "explanations", lambda summary: (counts, {}))
    assert toy.published().manifest.row_counts == {**counts, "letters": 54, "words": 17, "empty": 2}
    if by == "z_order":  # the letters of a word are in several files then
        table_at(here).optimize.z_order(["place"], target_size=1)
    for row in ({"word": "bcd"}, {"word": "--"}, {"letter": "a"}, {"letter": "w"}):
        bulk.take_down(here.uri, rows=[row], reason="no")
    left = [row for row in letters_of(GOOD_WORDS) if row[0] != "bcd" and row[2] not in "aw"]
    table = toy.published().dataset().to_table(columns=["word", "place", "letter"])
    assert sorted((*row.values(),) for row in table.to_pylist()) == left
    words = len({word for word, _, _ in left})
    counts |= {"letters": len(left), "words": words + 1, "empty": 1}
    assert toy.published().manifest.row_counts == counts


STRANGERS = ("", "u-", "u-1 ", "u-999", "é\u200f\ud7ff", "\U0010ffff")


@pytest.mark.usefixtures("small_windows")
def test_find_at_each_version_gives_exactly_the_rows_of_a_key(here):
    here.in_parts(10_000)
    toy = finished(here, "a odd-1 b")
    for version, items in ((0, ["a", "b"]), (1, ["a", "b", "odd-1"])):
        table = toy.published(version)
        assert (table.version, table.log.files(version).num_rows > 1) == (version, True)
        dataset = table.dataset(FORMAT.ok_schema)
        for user in [*(f"u-{number}" for number in range(12)), *STRANGERS]:
            found = table.find(dataset, "user", [user]).to_pylist()
            assert sorted(row["item"] for row in found) == ([] if user in STRANGERS else items)
            assert all(row["user"] == user and row["text"] for row in found)


@pytest.mark.usefixtures("small_windows")
def test_find_reads_one_file_of_several(there):
    there.in_parts(10_000)
    toy = there("a b c d", num_users=24)
    toy.complete()
    table = toy.published()
    dataset = table.dataset(FORMAT.ok_schema)
    assert table.log.files(0).num_rows > 2
    requests = requests_of(there.patch)
    assert table.find(dataset, "user", ["u-3"]).num_rows == 4
    assert len(requests) <= 6


def test_batches_give_the_rows_of_a_status_and_at_least_one_table(here):
    toy = here("a b")
    toy.complete()
    table = pa.concat_tables(toy.published().batches(["item", "user"]))
    assert sorted((row["user"], row["item"]) for row in table.to_pylist()) == toy.rows
    (nothing,) = toy.published().batches(["item"], status="failed")
    assert (nothing.num_rows, nothing.schema.names) == (0, ["item"])
