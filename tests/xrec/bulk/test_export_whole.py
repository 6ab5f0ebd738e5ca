"""An export is there as a whole or not, whatever stops it or comes between."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.xrec.bulk.exported import export, files_of, finished, target_of
from tests.xrec.bulk.toy_run import toy_run
from tests.xrec.table.conftest import Place
from xrec.bulk import compact, vacuum
from xrec.bulk.export_folder import RECORD, SUCCESS
from xrec.bulk.work import Work
from xrec.errors import ArtifactMismatchError, ConfigError, StorageError, TableError
from xrec.storage import MANIFEST, Location
from xrec.storage.local import LocalLocation
from xrec.storage.s3 import S3Location


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an export that writes rows anew make several files."""
    monkeypatch.setattr("xrec.bulk.export.WINDOW_BYTES", 1500)


def test_export_that_is_there_is_left_as_it_is(place: Place, tmp_path: Path) -> None:
    finished(place, tmp_path)
    first = export(place)
    target = target_of(place)
    before = {name: (target / name).modified_at() for name in target.files()}
    again = export(place, overwrite=True)
    assert (again.is_new, again.num_rows, again.num_files) == (
        False,
        first.num_rows,
        first.num_files,
    )
    assert {name: (target / name).modified_at() for name in target.files()} == before


def test_export_that_lost_a_file_is_made_whole_again(disk: Place, tmp_path: Path) -> None:
    finished(disk, tmp_path)
    export(disk)
    before = files_of(disk)
    (target_of(disk) / min(before)).delete()
    assert export(disk).is_new
    assert files_of(disk) == before


def test_export_leaves_what_another_process_writes_of_it_and_clears_what_is_old(
    disk: Place, tmp_path: Path
) -> None:
    finished(disk, tmp_path)
    export(disk)
    target = target_of(disk)
    whole = next(name for name in target.files() if name.endswith(".parquet"))
    folder, _, name = whole.rpartition("/")
    new, old = (
        (target / folder if folder else target) / f".{name}.{end}" for end in ("new", "old")
    )
    for unfinished in (new, old):
        unfinished.write_bytes(b"x")
    os.utime(old.path, (0, 0))
    (target / SUCCESS).delete()
    export(disk)
    assert (new.is_file(), old.is_file()) == (True, False)


class Stopped(BaseException):
    """The export's process ends here."""


class Watch:
    """Calls `before` ahead of everything that is written or deleted in the export's folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, target: Location):
        self.before: Callable[[int], None] = lambda number: None
        self.number = 0
        for kind in (LocalLocation, S3Location):
            for name in ("write_bytes", "create_bytes", "copy_to", "delete"):
                original = getattr(kind, name)
                monkeypatch.setattr(kind, name, self._watched(original, target, name == "copy_to"))

    def _watched(self, original: Any, target: Location, is_copy: bool) -> Any:
        def watched(location: Location, *arguments: Any) -> Any:
            place = arguments[0] if is_copy else location
            if place.path.startswith(target.path):
                self.before(self.number)
                self.number += 1
            return original(location, *arguments)

        return watched


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let requests go one after the other."""

    def each(function: Callable[[Any], Any], items: Any) -> Iterator[Any]:
        return map(function, items)

    monkeypatch.setattr("xrec.bulk.export.request_each", each)
    monkeypatch.setattr("xrec.bulk.export_folder.request_each", each)


@pytest.mark.usefixtures("small_windows", "one_at_a_time")
@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_export_stopped_at_any_moment_is_never_taken_for_whole_and_goes_on(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """An export of one version, then of another in its place; each step may be the last one."""
    toy = finished(disk, tmp_path, ["a", "odd-1"])
    whole: dict[str, Any] = {}
    for key in ("old", "new"):
        export(disk, format=format)
        whole[key] = files_of(disk)
        whole[f"{key} name"] = json.loads((target_of(disk) / SUCCESS).read_text())["export"]
        target_of(disk).delete()
        if key == "old":
            old = toy.run.table.newest_version()
            toy.heal()
            toy.drive(retry=("odd",))
    assert not set(whole["old"]) & set(whole["new"])
    watch = Watch(monkeypatch, target_of(disk))
    stop_at = 0

    def stop(number: int) -> None:
        if number == stop_at:
            raise Stopped

    for version, key in ((old, "old"), (None, "new")):
        while True:
            watch.number, watch.before = 0, stop
            try:
                export(disk, format=format, version=version, overwrite=True)
                break
            except Stopped:
                stop_at += 1
            watch.before = lambda number: None
            target = target_of(disk)
            if (target / SUCCESS).is_file():  # nothing of the old one is gone
                assert json.loads((target / SUCCESS).read_text())["export"] == whole["old name"]
                assert files_of(disk) == whole["old"]
            else:
                there = set(files_of(disk))
                assert not (there & set(whole["old"]) and there & set(whole["new"]))
        assert files_of(disk) == whole[key]
        success = json.loads((target_of(disk) / SUCCESS).read_text())
        assert success["export"] == whole[f"{key} name"]
        assert stop_at > 2
        stop_at = 0


def test_export_of_another_version_is_refused_unless_it_may_be_replaced(
    place: Place, tmp_path: Path
) -> None:
    toy = finished(place, tmp_path)
    first = export(place)
    toy.heal()
    toy.drive(retry=("odd",))
    target = target_of(place)
    before = {name: (target / name).read_bytes() for name in target.files()}
    for settings in ({}, {"format": "csv", "version": first.version}):
        with pytest.raises(
            ArtifactMismatchError, match=r"(?s)another export:\n.*(version|format): "
        ):
            export(place, **settings)
    assert {name: (target / name).read_bytes() for name in target.files()} == before
    assert not export(place, version=first.version).is_new  # the version that is there
    again = export(place, overwrite=True)
    assert (again.num_rows, again.version > first.version) == (48, True)
    assert again.num_files == len(files_of(place))


@pytest.mark.parametrize("with_record", [False, True])
def test_export_never_deletes_files_that_are_not_its_own(
    place: Place, tmp_path: Path, with_record: bool
) -> None:
    finished(place, tmp_path)
    if with_record:
        export(place, format="csv")
    target = target_of(place)
    (target / "photos" / "cat.parquet").write_bytes(b"a cat")
    before = target.files()
    with pytest.raises(ArtifactMismatchError, match=r"of no export, such as photos/cat\.parquet"):
        export(place, overwrite=True)
    assert target.files() == before


def test_export_in_or_around_the_table_is_refused(disk: Place, tmp_path: Path) -> None:
    finished(disk, tmp_path)
    for uri in (disk.uri, f"{disk.uri}/export", str(Path(disk.uri).parent)):
        with pytest.raises(ConfigError, match="a folder of its own"):
            export(disk, uri=uri)


def test_export_of_a_run_that_is_not_finished_is_refused(place: Place, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="holds no table"):
        export(place)
    toy = toy_run(place, tmp_path, ["a"])
    with pytest.raises(TableError, match="was not finished at version 0, with 0 rows done"):
        export(place)

    def interrupt(work: Work) -> None:
        if len(pool.done) == 2:
            raise KeyboardInterrupt

    pool = toy.pool(before=interrupt)
    with pytest.raises(KeyboardInterrupt):
        toy.drive(pool)
    with pytest.raises(TableError, match="was not finished"):
        export(place)
    with pytest.raises(TableError, match="version 99 is not in the log"):
        export(place, version=99)
    assert not target_of(place).exists()


def test_export_while_a_retry_is_under_way_is_of_the_version_in_the_manifest(
    disk: Place, tmp_path: Path
) -> None:
    toy = finished(disk, tmp_path, ["a", "odd-1"])
    version = toy.run.table.newest_version()
    (disk.location / MANIFEST).write_bytes(json.dumps({"version": version}).encode())
    toy.heal()
    exported = []

    def during(work: Work) -> None:
        exported.append(export(disk))

    toy.drive(toy.pool(before=during), retry=("odd",))
    assert {(each.version, each.num_rows) for each in exported} == {(version, 12)}


@pytest.mark.usefixtures("one_at_a_time")
def test_export_keeps_its_version_from_compaction_and_vacuum(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = finished(disk, tmp_path)
    files = toy.snapshot().files([("status", "=", "ok")])["path"].to_pylist()
    watch = Watch(monkeypatch, target_of(disk))

    def vacuum_once(number: int) -> None:
        if any(name != RECORD for name in target_of(disk).files()):
            watch.before = lambda number: None
            assert compact(toy.run, holder="test") is not None
            age_files(Path(disk.uri))
            vacuum(toy.run, holder="test", retention=timedelta(hours=1))

    watch.before = vacuum_once
    assert export(disk).num_files == len(files) > 2
    assert watch.before is not vacuum_once
    age_files(Path(disk.uri))
    vacuum(toy.run, holder="test", retention=timedelta(hours=1))  # the pin is gone
    assert not any((disk.location / path).is_file() for path in files)


def age_files(folder: Path) -> None:
    """Let vacuum take all files and versions of the table for old ones."""
    for path in (*folder.glob("status=*/*.parquet"), *folder.glob("_delta_log/*")):
        os.utime(path, (1_700_000_000, 1_700_000_000))


@pytest.mark.usefixtures("small_windows", "one_at_a_time")
def test_export_that_another_one_replaced_meanwhile_gives_up(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each moment of one export, another one takes its place."""
    finished(disk, tmp_path, ["a", "odd-1"])
    watch = Watch(monkeypatch, target_of(disk))
    moment = 0

    def replace(number: int) -> None:
        if number == moment:
            watch.before = lambda number: None
            export(disk, format="csv", overwrite=True)

    def export_and_be_replaced(format: str) -> bool:
        target_of(disk).delete()
        watch.number, watch.before = 0, replace
        try:
            export(disk, format=format)
        except ArtifactMismatchError as error:
            return re.search("another export|files were added", str(error)) is not None
        return False

    for format in ("jsonl", "parquet"):
        moment = 0
        while export_and_be_replaced(format):
            # No file of the first one is left, and the other one is whole or says that it is not.
            assert all(name.endswith(".csv") for name in files_of(disk))
            if (target_of(disk) / SUCCESS).is_file():
                num_files = json.loads((target_of(disk) / SUCCESS).read_text())["num_files"]
                assert num_files == len(files_of(disk))
            assert export(disk, format="csv").num_files == len(files_of(disk))
            moment += 1
        assert moment > 3


def test_export_onto_a_full_disk_says_so_and_goes_on_once_there_is_room(
    disk: Place, tmp_path: Path, small_disk: Path
) -> None:
    toy = finished(disk, tmp_path, [f"item-{number}" for number in range(40)])
    uri = str(small_disk / "export")
    with pytest.raises(StorageError, match="No space left on device"):
        export(disk, uri=uri)
    assert not Path(uri, SUCCESS).exists()
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    assert export(disk, uri=uri).num_rows == len(toy.rows)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 KiB."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(command, check=False).returncode:
        pytest.skip("only root, where it may mount, can make a disk that is full")
    yield folder
    subprocess.run(["umount", folder], check=True)
