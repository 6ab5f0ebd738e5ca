"""Rule 8 of xrec.bulk: publishing is one commit; what the table's files contain."""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.errors import raises
from tests.xrec.bulk.toy_run import (
    FORMAT,
    IDENTITY,
    OTHER,
    Toy,
    Toys,
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
from xrec.bulk.table import commit_files, open_whole
from xrec.errors import ArtifactNotFoundError, GateError, StorageError, TableError
from xrec.storage import LocalLocation


def two_runs(toys: Toys) -> tuple[Toy, Toy]:
    runs = toys(), toys("c d", identity=OTHER)
    for toy in runs:
        toy.drive()
    return runs


def test_rule_8_publish_is_one_version_and_repeating_it_changes_nothing(there):
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


def test_rule_8_concurrent_publishers_publish_once(here):
    one, other = two_runs(here)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(toy.publish) for toy in (one, other, one, other)]
    errors = [future.exception() for future in futures]
    assert {error.code for error in errors if error} == {"table_changed"}
    toy = (one, other)[errors.index(None) % 2]
    assert table_at(here).version() == 0
    assert rows_of(toy.published()) == toy.rows


@pytest.mark.parametrize("where", ["before", "after"])
def test_rule_8_commit_whose_response_was_lost_is_recognized(here, where):
    """It is one version, of the files that were written before the response was lost."""
    here.in_parts(4000)
    toy, lost = here("a b", num_users=30), Mock(side_effect=StorageError("no answer"))
    toy.drive()
    commit_once(here.patch, **{"before": lambda: None, where: lost})
    assert toy.publish().version == table_at(here).version() == 0
    assert rows_of(toy.published()) == toy.rows
    parts = sorted(name for name in here.location.sizes() if name.startswith("part-"))
    assert parts == sorted(files_of(toy))
    assert len(parts) > 3


@pytest.mark.parametrize("what", ["publish", "rollback", "empty"])
def test_rule_8_publish_refuses_to_replace_a_commit_made_during_its_work(here, what):
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
    assert here().complete() is not None  # the same command, started again
    assert rows_of(toy.published()) == toy.rows


@pytest.mark.parametrize("what", ["restored by others", "delete_runs", "vacuum", "emptied twice"])
def test_rule_8_run_that_was_taken_back_is_refused_whatever_happened_since(here, what):
    here().complete()
    bad = here("c odd-1", identity=OTHER)
    bad.complete()
    by = table_at(here).restore if what == "restored by others" else partial(rollback, here.uri)
    by(0)
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
        bad.complete(retry=["odd"])
    assert table_at(here).to_pyarrow_table() == shown


def test_rule_8_run_that_was_taken_back_is_published_by_force_and_once_replaced_without(here):
    for items in ("a", "b c"):
        here(items).complete()
    rollback(here.uri, 0)
    assert here("b c").complete(republish=True) is not None
    here("d e f").complete()
    again = here("b c")
    assert again.complete() is not None
    assert rows_of(again.published()) == again.rows


def test_rule_8_version_is_not_undone_for_a_stale_listing(here):
    """The listing lacks the table's files, as on NFS for a while."""
    toy, sizes = here(), LocalLocation.sizes
    toy.complete()
    file = here.location / files_of(toy)[0]

    def stale(location: LocalLocation) -> dict[str, int]:
        return {n: size for n, size in sizes(location).items() if not n.endswith(".parquet")}

    here.patch.setattr(LocalLocation, "sizes", stale)
    assert open_whole(here.location).version == 0
    file.delete()
    assert open_whole(here.location).version == 1


def test_rule_8_version_whose_files_are_missing_is_undone(here):
    first, toy = two_runs(here)
    first.publish()
    toy = here("c d", identity=OTHER)
    for number in (1, 3):  # an undo restores version 0 before each publish but the first
        toy.publish()
        for path in files_of(toy):
            (here.location / path).delete()
        assert toy.complete().version == number + 2
        assert rows_of(toy.published(number + 1)) == first.rows
        assert rows_of(toy.published()) == toy.rows
    for name in here.location.sizes():
        (here.location / name).delete()  # no version is whole
    assert here().complete().version == 7
    with raises(ArtifactNotFoundError, "nothing_published", saw="undo"):
        published(here.uri, version=6, storage=here.storage)


@pytest.mark.parametrize("hint", [None, b"", b'{"version":99,"size":3}'])
def test_table_is_opened_from_the_checkpoint_made_every_tenth_version(here, hint):
    """The hint, which names the last checkpoint, may be wrong."""
    toy, log = here(), here.location / "_delta_log"
    toy.complete()
    for version in range(1, 12):
        empty(here.uri) if version % 2 else rollback(here.uri, 0)
    rollback(here.uri, 0)
    for version in range(1, 10):  # never read
        (log / f"{version:020d}.json").write_bytes(b"{")
    if hint is not None:
        (log / "_last_checkpoint").write_bytes(hint)
    assert toy.published().version == 12
    assert rows_of(toy.published()) == toy.rows
    assert empty(here.uri) == 13


def test_rule_8_undo_that_is_not_sound_undoes_nothing(here):
    """A suspended process's undo was meant for another table."""
    first, _ = two_runs(here)
    first.publish()
    here("c d", identity=OTHER).publish()
    log = open_log(first.run.output)
    commit = Commit(kind="undo", table="of another", live="its files", target=0)
    commit_files(log.location, log, log.files(1), log.schema(1), commit)
    ((version, _), *_) = open_log(log.location).deciding()
    assert version == 1


def test_rule_8_publish_with_other_columns_replaces_them(here):
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


def test_rule_8_files_are_sorted_in_row_groups_of_the_intended_size(here):
    here.patch.setattr("xrec.bulk.table.ROWS_PER_GROUP", 10)
    here.patch.setattr("xrec.bulk.request.ROWS_PER_BUCKET", 4)
    toy = finished(here, "a b odd-1", num_users=30, rows_per_chunk=7)
    (path,) = files_of(toy)
    file = pq.ParquetFile(Path(here.uri, path))
    groups = [file.read_row_group(number) for number in range(file.num_row_groups)]
    assert len(groups) > 3
    assert all(10 <= group.num_rows <= 20 for group in groups[:-1])
    rows = [row for group in groups for row in group.to_pylist()]
    assert [row["bucket"] for row in rows] == sorted(row["bucket"] for row in rows)
    users = [user for user, _ in itertools.groupby(row["user"] for row in rows)]
    assert len(users) == 30  # each user's rows are adjacent
    assert file.metadata.row_group(0).column(0).has_column_index
    texts = [path.read_text() for path in Path(here.uri, "_delta_log").glob("*.json")]
    assert not any("u-1" in text for text in texts)  # the log outlives deleted rows
    adds = [json.loads(line).get("add") for text in texts for line in text.splitlines()]
    for stats in (json.loads(add["stats"]) for add in adds if add):
        assert (stats["minValues"], stats["numRecords"]) == ({"bucket": rows[0]["bucket"]}, 90)
