"""Rolling back, emptying, and deleting unused files; the status of a run, and checks of a table."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest

from tests.errors import raises
from tests.world.here import Place, PoolHere
from tests.xrec.bulk.toy_run import (
    IDENTITY,
    OTHER,
    files_of,
    finished,
    kill,
    rows_of,
    stopped_after,
    table_at,
)
from xrec import bulk
from xrec.bulk import read_published
from xrec.bulk.request import PROBES
from xrec.bulk.run import RUNS
from xrec.errors import ArtifactNotFoundError, TableError

HOUR = timedelta(hours=1)


def test_rollback_and_empty_make_the_next_version_and_keep_the_earlier_ones(here):
    toy = finished(here)
    assert bulk.rollback(here.uri, 0) == 2
    assert len(rows_of(toy.published(), "failed")) == 12
    assert toy.published().manifest.row_counts == toy.published(0).manifest.row_counts
    assert read_published(here.location, "explanations").version == 2
    assert bulk.rollback(here.uri, 2) == 2  # the newest
    assert bulk.empty(here.uri) == 3
    with raises(ArtifactNotFoundError, "nothing_published", saw="empty"):
        toy.published()
    with raises(ArtifactNotFoundError, "nothing_published", saw="empty"):
        read_published(here.location, "explanations")
    assert table_at(here).to_pyarrow_table().num_rows == 0
    assert bulk.rollback(here.uri, 1) == 4
    assert rows_of(toy.published(), "ok") == toy.rows
    assert bulk.check_output(here.uri) == []
    for version in (-1, 5):
        with raises(TableError, "no_version", saw=version):
            bulk.rollback(here.uri, version)


def test_upkeep_of_a_missing_table_or_of_another_programs_is_refused(disk):
    changes = (lambda: bulk.rollback(disk.uri, 0), lambda: bulk.empty(disk.uri))
    for do in changes:
        with raises(ArtifactNotFoundError, "no_table"):
            do()
    assert bulk.vacuum(disk.uri, HOUR) == 0
    for number in range(2):
        deltalake.write_deltalake(disk.uri, pa.table({"a": [number]}), mode="overwrite")
    age(disk)
    for do in (*changes, lambda: bulk.vacuum(disk.uri, HOUR)):
        with unchanged(disk), raises(TableError, "another_table"):
            do()


@contextmanager
def unchanged(place: Place) -> Iterator[None]:
    """Fail if the block changes a file."""
    before = {name: (place.location / name).read_bytes() for name in place.location.files()}
    yield
    assert before == {name: (place.location / name).read_bytes() for name in place.location.files()}


def age(place: Place, *spared: str) -> None:
    """Make all files three hours old, except those whose paths contain one of `spared`."""
    old = time.time() - 3 * 3600
    for file in Path(place.uri).rglob("*"):
        if file.suffix == ".json" and file.parent.name == "_delta_log":
            deleted = f'"deletionTimestamp":{int(old * 1000)}'
            file.write_text(re.sub(r'"deletionTimestamp":\d+', deleted, file.read_text()))
        if not any(text in str(file) for text in spared):
            os.utime(file, (old, old))


def test_table_whose_protocol_another_program_raised_is_refused(here):
    toy = finished(here)
    table_at(here).alter.set_table_properties({"delta.enableChangeDataFeed": "true"})
    for change in (lambda: bulk.rollback(here.uri, 0), toy.publish, lambda: bulk.empty(here.uri)):
        with unchanged(here), raises(TableError, "another_protocol"):
            change()


def test_vacuum_deletes_files_that_no_recent_version_uses_and_superseded_plans(here):
    """One run is published, one was published earlier, one was planned last, one lost its plan."""
    here("x", identity=OTHER).complete()
    toy = finished(here)
    third = IDENTITY.model_copy(update={"config": {"words": 5}})
    lost = here("y", identity=third)
    (lost.run.folder / "plan" / "chunks.parquet").delete()
    last = here("y", identity=third)
    last.drive(max_rows=1)
    orphan = here.location / "part-of-a-publisher-that-died.parquet"
    probe = here.location / PROBES / "of-a-command-that-was-killed"
    unfinished = here.location / ".part-0.parquet.of-a-publisher-that-was-killed"
    for file in (orphan, probe, unfinished):
        file.write_bytes(b"1")
    before = here.location.files()
    assert bulk.vacuum(here.uri, 2 * HOUR) == 0
    assert set(before) <= set(here.location.files())
    age(here, "part-of-a")
    assert bulk.vacuum(here.uri, 4 * HOUR) == 0
    assert bulk.vacuum(here.uri, HOUR) == 2  # the files of two earlier versions
    assert orphan.is_file()
    runs = {run: (here.location / RUNS / run).folders() for run in (here.location / RUNS).folders()}
    assert runs == {each.run.record.run: [each.run.record.nonce] for each in (toy, last)}
    assert rows_of(toy.published(), "ok") == toy.rows
    assert here("y", identity=third).run.record == last.run.record
    age(here)
    bulk.vacuum(here.uri, HOUR)
    assert not any(file.exists() for file in (orphan, probe, unfinished))
    with raises(TableError, "cannot_be_restored", saw=1):
        bulk.rollback(here.uri, 1)


def test_vacuum_spares_a_superseded_run_with_a_recent_file(here):
    toy = here()
    toy.drive(max_rows=7)
    here("x", identity=OTHER).complete()
    age(here, "driver.json")
    bulk.vacuum(here.uri, HOUR)
    again = here()
    assert again.run.record == toy.run.record
    again.complete(pool := PoolHere())
    assert len(pool.done) == toy.run.record.size.num_chunks - 2
    here("x", identity=OTHER).complete()
    age(here)
    bulk.vacuum(here.uri, HOUR)
    assert here().run.record != toy.run.record


def test_rollback_is_retried_if_another_commit_comes_first(here):
    for items in ("a", "a b"):
        here(items, identity=OTHER).complete()
    later, restores = [here("c").complete], bulk.upkeep.restore

    def overtaken(*arguments: Any) -> bool:
        if later:
            later.pop()()
        return restores(*arguments)

    here.patch.setattr(bulk.upkeep, "restore", overtaken)
    assert bulk.rollback(here.uri, 0) == 3
    assert rows_of(here("a").published()) == here("a").rows


def test_vacuum_undoes_a_rollback_that_meanwhile_restored_deleted_files(here):
    first, toy = here(), here("x", identity=OTHER)
    first.complete()
    old = files_of(first)
    toy = here("x", identity=OTHER)
    toy.complete()
    age(here)
    vacuum = deltalake.DeltaTable.vacuum

    def with_a_rollback(*arguments: Any, **options: Any) -> Any:
        here.patch.setattr(deltalake.DeltaTable, "vacuum", vacuum)
        bulk.rollback(here.uri, 0)  # while the vacuum deletes one file after the other
        for path in old:
            (here.location / path).delete()
        return vacuum(*arguments, **options)

    here.patch.setattr(deltalake.DeltaTable, "vacuum", with_a_rollback)
    bulk.vacuum(here.uri, HOUR)
    assert rows_of(toy.published()) == toy.rows
    assert bulk.check_output(here.uri) == []


def test_read_status_before_during_and_after_a_run(here):
    with raises(ArtifactNotFoundError, "no_run"):
        bulk.read_status(here.uri)
    toy = here("a odd-1")

    def status() -> bulk.Status:
        return bulk.read_status(here.uri)

    planned, phases = status(), []
    assert (planned.phase, planned.num_left, planned.progress) == ("planned", 24, None)
    toy.drive(PoolHere(before=lambda chunk: phases.append(status().phase)))
    assert set(phases) == {"running"}
    done = status()
    assert (done.phase, done.num_left, done.manifest) == ("done", 0, None)
    assert (done.progress.num_ok, done.progress.failed) == (12, {"odd": 12})
    manifest = toy.publish()
    assert (status().phase, status().manifest) == ("published", manifest)
    with pytest.raises(KeyboardInterrupt):
        toy.drive(stopped_after(1), retry=["odd"])
    assert (status().phase, status().num_left) == ("stopped", 0)
    toy.drive()
    assert status().phase == "done"  # the retry is not published
    other = here("a", identity=OTHER)
    assert (status().phase, status().record) == ("planned", other.run.record)
    other.complete()
    bulk.rollback(here.uri, 0)
    assert (status().phase, status().is_published) == ("replaced", False)


def test_check_changes_nothing_and_reports_a_missing_output_other_files_and_an_unfinished_run(here):
    def check() -> list[tuple[str, bool]]:
        with unchanged(here):
            found = bulk.check_output(here.uri, here.storage)
        return [(each.severity, each.what.startswith(here.uri)) for each in found]

    assert check() == [("error", True)]
    other = here.at("other")
    (other.location / "photos.zip").write_bytes(b"x")
    (found,) = bulk.check_output(other.uri)
    assert "contains other files, such as photos.zip" in found.what
    other.location.delete()
    toy = here()
    kill(toy, 1, term=timedelta(0))
    assert check() == [("warning", True)]
    here("b", identity=OTHER).complete()
    assert check() == []  # a newer run is published
