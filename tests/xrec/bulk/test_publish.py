"""The manifest names a finished version of the table, and that version stays readable."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.xrec.bulk.test_rules_faults import fail_some
from tests.xrec.bulk.toy_run import Toy, rows_of, toy_run
from tests.xrec.table.conftest import Place
from tests.xrec.table.small_table import make_older
from xrec.bulk import RunState, compact, publish
from xrec.bulk.publish import finished_version
from xrec.bulk.work import Work
from xrec.config.shared import StorageConfig
from xrec.errors import StorageError
from xrec.storage import MANIFEST, Manifest, read_manifest
from xrec.table import Table


def describe(version: int, state: RunState) -> tuple[dict[str, int], dict[str, Any]]:
    """The counts of a manifest."""
    return {"rows": state.num_rows}, {"version": version}


def publish_toy(toy: Toy) -> Manifest:
    """Publish the toy's newest finished version."""
    manifest = publish(toy.run, "scores", describe)
    assert manifest is not None
    return manifest


def test_publish_names_the_version_with_which_the_run_finished(
    place: Place, tmp_path: Path
) -> None:
    toy = toy_run(place, tmp_path)
    assert publish(toy.run, "scores", describe) is None
    assert not (place.location / MANIFEST).is_file()
    toy.drive()
    version = toy.run.table.newest_version()
    toy.run.table.take_over("someone")  # changes no rows
    manifest = publish_toy(toy)
    assert manifest == read_manifest(place.location, "scores")
    assert (manifest.version, manifest.files) == (version, {})
    assert (manifest.row_counts, manifest.metrics) == ({"rows": 36}, {"version": version})
    assert publish_toy(toy) == manifest


def test_publish_again_after_a_retry_or_a_compaction_names_the_newer_version(
    disk: Place, tmp_path: Path
) -> None:
    toy = toy_run(disk, tmp_path, ["a", "odd-1"])
    toy.drive()
    first = publish_toy(toy)
    toy.heal()
    toy.drive(retry=["odd"])
    second = publish_toy(toy)
    compact(toy.run, holder="upkeep")
    third = publish_toy(toy)
    versions = [manifest.version or 0 for manifest in (first, second, third)]
    assert versions == sorted(set(versions))
    assert first.fingerprint != second.fingerprint
    assert third.fingerprint == second.fingerprint  # a compaction changes no row
    assert rows_of(toy.snapshot(third.version), "ok") == toy.rows


def test_publish_of_other_rows_has_another_fingerprint(tmp_path: Path) -> None:
    """The rows' table has one URI; what depends on the rows must be made again."""
    manifests = []
    for number, items in enumerate((["a"], ["a"], ["b"])):
        place = Place(str(tmp_path / str(number)), StorageConfig())
        toy = toy_run(place, tmp_path, items)
        toy.drive()
        manifests.append(publish_toy(toy))
    first, same, other = manifests
    assert first.run == same.run == other.run
    assert first.fingerprint == same.fingerprint != other.fingerprint


def test_publish_while_a_retry_is_under_way_leaves_the_manifest(
    disk: Place, tmp_path: Path
) -> None:
    toy = toy_run(disk, tmp_path, ["a", "odd-1"])
    toy.drive()
    manifest = publish_toy(toy)

    def interrupt(work: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy.drive(toy.pool(before=interrupt), retry=["odd"])
    version, state = finished_version(toy.run) or (None, None)
    assert (version, state and state.state) == (manifest.version, "finished")
    assert publish_toy(toy) == manifest
    (toy.run.plan.output / MANIFEST).delete()  # its writer died before it was written
    assert publish_toy(toy).version == manifest.version


def test_publish_of_a_run_whose_first_retry_began_before_it_was_finished_waits(
    disk: Place, tmp_path: Path
) -> None:
    toy = toy_run(disk, tmp_path, ["a", "odd-1"])

    def interrupt(work: Work) -> None:
        if work.unit.is_retry:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy.drive(toy.pool(before=interrupt), retry=["odd"])
    assert finished_version(toy.run) is None


def test_publish_onto_a_store_that_fails_now_and_then_is_tried_again(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_run(disk, tmp_path)
    toy.drive()
    calls = fail_some(monkeypatch, Table, "pin", 3)
    assert publish_toy(toy) == read_manifest(disk.location, "scores")
    assert len(calls) == 3
    (disk.location / MANIFEST).delete()
    fail_some(monkeypatch, Table, "pin", 9)
    with pytest.raises(StorageError, match="no answer"):
        publish_toy(toy)


def test_published_version_outlives_a_vacuum(disk: Place, tmp_path: Path) -> None:
    toy, hour = toy_run(disk, tmp_path), timedelta(hours=1)
    toy.drive()
    manifest = publish_toy(toy)
    compact(toy.run, holder="upkeep")
    make_older(disk.location, 48 * hour)
    writer = toy.run.table.take_over("upkeep")
    assert writer.vacuum(retention=hour).num_files == 0
    assert rows_of(toy.snapshot(manifest.version)) == toy.rows
    toy.run.table.unpin(f"published-{manifest.version}")
    assert writer.vacuum(retention=hour).num_files > 0
