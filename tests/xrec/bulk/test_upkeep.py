"""Going back, emptying, and deleting what nobody needs."""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest

from tests.world.here import Place, PoolHere
from tests.xrec.bulk.test_check import finished
from tests.xrec.bulk.test_rules_plan import OTHER
from tests.xrec.bulk.test_rules_publish import table_at
from tests.xrec.bulk.toy_run import IDENTITY, rows_of
from xrec.bulk import check_output, delete_runs, empty, rollback, vacuum
from xrec.bulk.runs.run import RUNS
from xrec.errors import ArtifactNotFoundError, TableError
from xrec.storage import read_manifest
from xrec.storage.local import LocalLocation

HOUR = timedelta(hours=1)


def test_rollback_and_empty_make_the_next_version_and_keep_the_earlier_ones(toys):
    toy = finished(toys)
    assert rollback(toys.uri, 0, toys.storage) == 2
    assert len(rows_of(toy.published(), "failed")) == 12
    assert toy.published().manifest.row_counts == toy.published(0).manifest.row_counts
    assert read_manifest(toys.location, "explanations").version == 2
    assert rollback(toys.uri, 2, toys.storage) == 2  # is the newest
    assert empty(toys.uri, toys.storage) == 3
    with pytest.raises(ArtifactNotFoundError, match="it was emptied; run its job first"):
        toy.published()
    with pytest.raises(ArtifactNotFoundError, match="it was emptied; run its job first"):
        read_manifest(toys.location, "explanations")
    assert table_at(toys).to_pyarrow_table().num_rows == 0
    assert rollback(toys.uri, 1, toys.storage) == 4
    assert rows_of(toy.published(), "ok") == toy.rows
    assert check_output(toys.uri, toys.storage) == []
    for version in (-1, 5):
        with pytest.raises(TableError, match=f"version {version} is not there; .* has 0 to 4"):
            rollback(toys.uri, version, toys.storage)


def test_upkeep_of_nothing_or_of_another_programs_table_is_refused(disk):
    changes = (lambda: rollback(disk.uri, 0), lambda: empty(disk.uri))
    for do in changes:
        with pytest.raises(ArtifactNotFoundError, match="there is no table"):
            do()
    assert vacuum(disk.uri, HOUR) == 0
    for number in range(2):
        deltalake.write_deltalake(disk.uri, pa.table({"a": [number]}), mode="overwrite")
    age(disk)
    before = disk.location.files()
    for do in (*changes, lambda: vacuum(disk.uri, HOUR)):
        with pytest.raises(TableError, match="holds a Delta table that this xrec does not publish"):
            do()
    assert disk.location.files() == before


def age(place: Place, *spared: str) -> None:
    """Let all files be three hours old, but those whose paths contain something of `spared`."""
    old = time.time() - 3 * 3600
    for file in Path(place.uri).rglob("*"):
        if file.suffix == ".json" and file.parent.name == "_delta_log":
            said = f'"deletionTimestamp":{int(old * 1000)}'
            file.write_text(re.sub(r'"deletionTimestamp":\d+', said, file.read_text()))
        if not any(text in str(file) for text in spared):
            os.utime(file, (old, old))


def test_vacuum_deletes_files_of_no_recent_version_and_plans_that_nobody_needs(here):
    """Runs: one is published, one was published before it, one planned last, one lost its plan."""
    superseded = here("x", identity=OTHER)
    superseded.complete()
    toy = finished(here)
    third = IDENTITY.model_copy(update={"config": {"words": 5}})
    lost = here("y", identity=third)
    (lost.run.folder / "plan" / "chunks.parquet").delete()
    last = here("y", identity=third)
    last.drive(max_rows=1)
    orphan = here.location / "part-of-a-publisher-that-died.parquet"
    orphan.write_bytes(b"1")
    before = here.location.files()
    assert vacuum(here.uri, 2 * HOUR) == 0
    assert set(before) <= set(here.location.files())  # all is young
    age(here, "part-of-a")
    assert vacuum(here.uri, 4 * HOUR) == 0
    assert vacuum(here.uri, HOUR) == 2  # of the two versions before
    assert orphan.is_file()
    runs = {run: (here.location / RUNS / run).folders() for run in (here.location / RUNS).folders()}
    assert runs == {each.run.record.run: [each.run.record.nonce] for each in (toy, last)}
    assert rows_of(toy.published(), "ok") == toy.rows
    assert toy.complete() is not None
    assert here("y", identity=third).run.record == last.run.record
    age(here)
    vacuum(here.uri, HOUR)
    assert not orphan.exists()
    with pytest.raises(TableError, match=r"version 1 cannot be restored: part-.* is gone"):
        rollback(here.uri, 1)


def test_vacuum_spares_a_superseded_run_that_is_at_work(toys):
    toy = toys()
    toy.drive(max_rows=7)
    toys("x", identity=OTHER).complete()
    vacuum(toys.uri, HOUR, toys.storage)
    again = toys()
    assert again.run.record == toy.run.record
    again.complete(pool := PoolHere())
    assert len(pool.done) == toy.run.record.size.num_chunks - 2
    assert rows_of(again.published()) == toy.rows


@dataclass(frozen=True)
class Busy(LocalLocation):
    """A location where a driver begins while files are deleted."""

    begin: Callable[[], object] = field(default=lambda: None)

    def delete(self) -> None:
        super().delete()
        if self.path.endswith(RUNS):
            self.begin()


def test_delete_runs_deletes_what_a_driver_wrote_meanwhile(here):
    here().complete()
    later = [lambda: here("x", identity=OTHER).drive(max_rows=1)]
    busy = Busy(here.location.uri, here.location.path, begin=lambda: later and later.pop()())
    here.patch.setattr("xrec.bulk.upkeep.open_location", lambda *_: busy)
    assert delete_runs(here.uri) == 2
    assert not [name for name in here.location.files() if name.startswith(RUNS)]


@pytest.mark.parametrize("when", ["before", "after"])
def test_vacuum_leaves_a_whole_version_if_a_rollback_comes_meanwhile(here, when):
    """What a rollback brings back before the vacuum begins is kept, and undone after that."""
    first, toy = here(), here("x", identity=OTHER)
    first.complete()
    toy = here("x", identity=OTHER)
    toy.complete()
    age(here)
    vacuums, seen = deltalake.DeltaTable.vacuum, []
    kept = {
        path: (here.location / path).read_bytes()
        for path in first.published().log.files(0)["path"].to_pylist()
    }

    def with_a_rollback(*arguments: Any, **options: Any) -> Any:
        seen.append(1)
        if when == "before" and len(seen) == 1:
            rollback(here.uri, 0)
        deleted = vacuums(*arguments, **options)
        if when == "after":  # in truth before they are deleted, one after the other
            for path, data in kept.items():
                (here.location / path).write_bytes(data)
            rollback(here.uri, 0)
            for path in kept:
                (here.location / path).delete()
        return deleted

    here.patch.setattr(deltalake.DeltaTable, "vacuum", with_a_rollback)
    vacuum(here.uri, HOUR)
    shown = first if when == "before" else toy
    assert rows_of(shown.published()) == shown.rows
    assert check_output(here.uri) == []
