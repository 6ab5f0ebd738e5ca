"""Rule 8 of xrec.bulk: publishing is one commit, and whatever comes between is found out."""

import itertools
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.world.here import Killed, Place, PoolHere
from tests.xrec.bulk.conftest import Toys
from tests.xrec.bulk.test_rules_plan import OTHER
from tests.xrec.bulk.toy_run import IDENTITY, Toy, die_here, rows_of
from xrec.bulk import delete_runs, empty, published, rollback, vacuum
from xrec.bulk.table import deciding, open_whole, replace_content
from xrec.errors import ArtifactNotFoundError, GateError, StorageError, TableError
from xrec.storage.delta import Commit, open_log
from xrec.storage.local import LocalLocation

MODULE = sys.modules["xrec.bulk.publish"]  # its function has the same name


def table_at(place: Place) -> deltalake.DeltaTable:
    """The table, as another program opens it."""
    return deltalake.DeltaTable(place.uri, storage_options=place.location.delta_options())


def commit_once(
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[], object],
    after: Callable[[], object] = lambda: None,
) -> None:
    """Do something before and after the next commit of a publisher."""
    commit, seen = MODULE.replace_content, []

    def committed(*arguments: Any) -> None:
        seen.append(1)
        is_first = len(seen) == 1
        if is_first:
            before()
        commit(*arguments)
        if is_first:
            after()

    monkeypatch.setattr(MODULE, "replace_content", committed)


def two_runs(toys: Toys) -> tuple[Toy, Toy]:
    """Two runs that are done, of two configs; neither is published."""
    runs = toys(), toys("c d", identity=OTHER)
    for toy in runs:
        toy.drive()
    return runs


def files_of(toy: Toy) -> list[str]:
    """The files of what is published, in the table's order."""
    table = toy.published()
    return table.log.files(table.version)["path"].to_pylist()


def test_rule_8_publish_is_one_version_and_doing_it_again_changes_nothing(toys):
    toy = toys("a odd-1")
    with pytest.raises(ArtifactNotFoundError, match="nothing was published there"):
        toy.published()
    manifest = toy.complete()
    assert (manifest.version, manifest.files) == (0, {})
    for same in (toy, toys("a odd-1")):
        assert same.publish() == same.complete() == same.published().manifest == manifest
    assert table_at(toys).version() == 0
    toy.heal()
    second = toy.complete(retry=["odd"])
    assert (second.version, second.run) == (1, manifest.run)
    assert second.fingerprint != manifest.fingerprint
    assert rows_of(toy.published(), "ok") == toy.rows
    assert toy.published(0).manifest == manifest
    with pytest.raises(TableError, match="version 2 is not there"):
        toy.published(2)


def test_rule_8_publishers_at_once_publish_once(toys):
    one, other = two_runs(toys)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(toy.publish) for toy in (one, other, one, other)]
    errors = [str(future.exception()) for future in futures]
    assert any("came while this job was at work" in error for error in errors)
    toy = (one, other)[errors.index("None") % 2]
    assert table_at(toys).version() == 0
    assert rows_of(toy.published()) == toy.rows


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("where", ["before", "after"])
def test_rule_8_lost_answer_of_commit_is_found_out(toys, where, is_first):
    toy, lost = toys("a odd-1"), Mock(side_effect=StorageError("no answer"))
    if not is_first:
        toy.complete()
    toy.drive(retry=["odd"])
    commit_once(toys.patch, **{"before": lambda: None, where: lost})
    assert toy.publish().version == table_at(toys).version() == (0 if is_first else 1)
    assert rows_of(toy.published()) == toy.rows


@pytest.mark.parametrize(
    ("what", "said"),
    [("publish", "another publish"), ("rollback", "a rollback"), ("empty", "an emptying")],
)
def test_rule_8_what_came_during_the_work_is_not_undone(toys, what, said):
    for items in ("a", "a b"):
        toys(items, identity=OTHER).complete()
    toy, other = toys(), toys("c", identity=OTHER)
    toy.drive()
    if what == "publish":
        other.complete()
    elif what == "rollback":
        rollback(toys.uri, 0, toys.storage)
    else:
        empty(toys.uri, toys.storage)
    message = rf"{said} \(version 2\) came while this job was at work, .* the same command"
    for _ in range(2):
        with pytest.raises(TableError, match=message):
            toy.publish()
    assert toys().complete() is not None  # the same command
    assert rows_of(toy.published()) == toy.rows


@pytest.mark.parametrize("what", ["rollback", "empty", "restore"])
def test_rule_8_run_that_was_taken_back_is_published_only_if_told_so(toys, what):
    two_runs(toys)[0].publish()
    toys("c d", identity=OTHER).publish()
    if what == "rollback":
        assert rollback(toys.uri, 0, toys.storage) == 2
    elif what == "empty":
        assert empty(toys.uri, toys.storage) == 2
    else:  # another program's
        table_at(toys).restore(0)
    toy, first = toys("c d", identity=OTHER), toys()
    with pytest.raises(GateError, match=r"\(version 2\) took it back; .*--version 1$"):
        toy.complete()
    if what != "empty":  # the first run is what readers take
        assert rows_of(first.published()) == first.rows
        assert first.complete().version == 2
    assert toy.complete(republish=True).version == 3
    assert rows_of(toy.published()) == toy.rows


@pytest.mark.parametrize("what", ["retry", "delete_runs", "vacuum", "emptied twice"])
def test_rule_8_run_that_was_taken_back_stays_so_whatever_comes_between(here, what):
    here().complete()
    bad = here("c odd-1", identity=OTHER)
    bad.complete()
    rollback(here.uri, 0)
    retry = []
    if what == "retry":
        bad.heal()
        retry = ["odd"]
    elif what == "delete_runs":
        delete_runs(here.uri)
    elif what == "vacuum":
        third = IDENTITY.model_copy(update={"config": {"words": 5}})
        here("d", identity=third).complete()
        rollback(here.uri, 0)
        vacuum(here.uri, timedelta(0))
        time.sleep(1.1)  # times of files are whole seconds there
    else:
        empty(here.uri)
        here("d").complete()
        empty(here.uri)
    shown = table_at(here).to_pyarrow_table()
    bad = here("c odd-1", identity=OTHER)
    with pytest.raises(GateError, match="took it back"):
        bad.complete(retry=retry)
    assert table_at(here).to_pyarrow_table() == shown
    assert bad.complete(republish=True, retry=retry) is not None
    assert rows_of(bad.published()) == bad.rows
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


class Stale(LocalLocation):
    """A location whose listings lack the table's files, as those of NFS may for a while."""

    def sizes(self) -> dict[str, int]:
        there = super().sizes().items()
        return {name: size for name, size in there if not name.endswith(".parquet")}


def test_rule_8_version_is_not_undone_for_a_stale_listing(here):
    here().complete()
    stale = Stale(here.location.uri, here.location.path)
    assert open_whole(stale).version == 0
    (here.location / files_of(here())[0]).delete()
    assert open_whole(stale).version == 1


def test_rule_8_earlier_config_is_published_again_by_its_command(here):
    here().complete()
    here("c", identity=OTHER).complete()
    assert here().complete(pool := PoolHere()).version == 2
    assert pool.num_starts == 0
    assert rows_of(here().published()) == here().rows


def test_rule_8_version_whose_files_are_gone_is_undone(toys):
    first, toy = two_runs(toys)
    first.publish()
    toy = toys("c d", identity=OTHER)
    for number in (1, 3):  # what is published, and what is restored
        toy.publish()
        for path in files_of(toy):
            (toys.location / path).delete()
        assert toy.complete().version == number + 2
        assert rows_of(toy.published(number + 1)) == first.rows
        assert rows_of(toy.published()) == toy.rows
    for name in toys.location.sizes():
        (toys.location / name).delete()  # no version is whole
    assert toys().complete().version == 7
    with pytest.raises(ArtifactNotFoundError, match="published nothing there"):
        published(toys.uri, version=6, storage=toys.storage)


def test_rule_8_publisher_that_slept_over_a_deletion_is_undone(toys):
    """It commits onto a table that was deleted and made again by another run, at one version."""
    first, other = two_runs(toys)
    first.publish()
    toy = toys("e", identity=OTHER)
    toy.drive()

    def deleted_and_made_again() -> None:
        for name in toys.location.sizes():
            (toys.location / name).delete()
        (toys.location / "_delta_log").delete()
        with toys.patch.context() as patch:
            patch.undo()
            other.publish()

    commit_once(toys.patch, deleted_and_made_again, die_here)
    with pytest.raises(Killed):
        toy.publish()
    log = open_log(toys.location)
    assert (log.version, log.is_sound(1)) == (1, False)
    with pytest.raises(TableError, match="version 1 has other files than its writer meant"):
        other.published()
    again = toys("c d", identity=OTHER)
    assert again.publish().version == 2  # its own, once the other version is undone
    assert rows_of(again.published()) == other.rows


def test_rule_8_undo_that_is_not_sound_undoes_nothing(here):
    """A sleeper's undo came into the table from another one."""
    first, _ = two_runs(here)
    first.publish()
    here("c d", identity=OTHER).publish()
    log = open_log(first.run.output)
    commit = Commit(kind="undo", table="of another", live="its files", target=0)
    replace_content(log.location, log, [], pa.schema(log.delta.schema().to_arrow()), commit)
    ((version, _), *_) = deciding(open_log(log.location))
    assert version == 1


def test_rule_8_publish_of_other_columns_replaces_them(here):
    here().complete()
    toy = here(identity=OTHER)
    toy.drive()
    results = toy.run.passes()[0].results
    for chunk, (name, _) in results.sizes().items():
        rows, summary = results.read(name, toy.run.format.table_schema)
        (results.location / name).delete()
        results.create(chunk, rows.append_column("more", pa.array(["m"] * len(rows))), summary)
    more = replace(toy.run.format, ok=toy.run.format.ok.append(pa.field("more", pa.string())))
    toy = replace(toy, run=replace(toy.run, format=more))
    toy.publish()
    assert set(toy.published().dataset().to_table()["more"].to_pylist()) == {"m"}
    assert rows_of(toy.published()) == toy.rows


# What is in the files.


def test_rule_8_files_are_in_the_tables_order_in_row_groups_of_some_size(here):
    here.patch.setattr("xrec.bulk.parts._ROWS_PER_GROUP", 10)
    here.patch.setattr("xrec.bulk.request.ROWS_PER_BUCKET", 4)
    toy = here("a b odd-1", num_users=60, rows_per_chunk=7)
    toy.complete()
    toy.heal()
    toy.complete(retry=["odd"])
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


def test_rule_8_parts_and_passes_of_any_size_have_each_row_once(toys):
    """Chunks of retries have rows of several parts of the table."""
    toys.in_parts(10_000)
    toy = toys("a odd-1 dull-2 b", num_users=20, rows_per_chunk=9)
    toy.drive()
    manifests = [toy.publish()]
    for retry in (["odd", "dull"], ["dull"], ["odd"]):
        manifests.append(toy.complete(retry=retry))
        toy.heal()
        assert rows_of(toy.published()) == toy.rows
        assert len(files_of(toy)) > 3
    assert [manifest.row_counts["failed"] for manifest in manifests] == [40, 40, 20, 0]
    assert [sum(manifest.row_counts.values()) for manifest in manifests] == [80] * 4
    assert manifests[-1].metrics["costs"]["tokens"] == 3 * 80
    assert len(set(toy.published().dataset().to_table()["text"].to_pylist())) == 80
