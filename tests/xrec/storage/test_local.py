"""A location on this machine's disk: atomic writes, one winner, clear errors."""

import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from xrec.config.shared import StorageConfig
from xrec.errors import StorageAccessError, StorageError, StorageNotFoundError
from xrec.storage import check_access, open_location


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_location_local_round_trip_makes_the_folders(tmp_path: Path, form: str) -> None:
    location = open_location(form.format(tmp_path)) / "a" / "b.txt"
    assert not location.exists()
    location.write_bytes(b"first")
    location.write_bytes("zwölf".encode())
    assert location.read_text() == "zwölf"
    assert (tmp_path / "a" / "b.txt").read_text(encoding="utf-8") == "zwölf"
    assert (location.is_file(), location.name, location.shared_uri) == (
        True,
        "b.txt",
        str(tmp_path / "a" / "b.txt"),
    )
    assert os.listdir(tmp_path / "a") == ["b.txt"]  # no temporary file stays


def test_location_files_are_relative_sorted_and_of_this_folder_only(tmp_path: Path) -> None:
    root = open_location(str(tmp_path))
    for name in ("run/part-1", "run/deep/part-2", "running/other"):
        (root / name).write_bytes(b"x")
    assert (root / "run").files() == ["deep/part-2", "part-1"]
    assert (root / "nothing").files() == []
    (root / "run").delete()
    (root / "nothing").delete()
    assert root.files() == ["running/other"]


def test_write_bytes_local_interrupted_keeps_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = open_location(str(tmp_path / "file"))
    location.write_bytes(b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        location.write_bytes(b"new and longer")
    assert location.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_create_bytes_local_second_writer_is_told_and_changes_nothing(tmp_path: Path) -> None:
    location = open_location(str(tmp_path / "deep" / "record"))
    assert location.create_bytes(b"first") is True
    assert location.create_bytes(b"second") is False
    assert location.read_bytes() == b"first"
    assert os.listdir(tmp_path / "deep") == ["record"]


def _create(path: str, number: int, barrier: object, won: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    if open_location(path).create_bytes(f"writer {number}".encode()):
        won.put(number)  # type: ignore[attr-defined]


def test_create_bytes_local_eight_processes_race_exactly_one_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, won = context.Barrier(8), context.Queue()
    path = str(tmp_path / "record")
    writers = [
        context.Process(target=_create, args=(path, number, barrier, won)) for number in range(8)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * 8
    winner = won.get(timeout=10)
    assert won.empty()
    assert open_location(path).read_text() == f"writer {winner}"


def test_location_missing_file_is_not_found_with_its_uri(tmp_path: Path) -> None:
    uri = str(tmp_path / "nothing")
    with pytest.raises(StorageNotFoundError, match=uri):
        open_location(uri).read_bytes()


def test_location_file_in_the_place_of_a_folder_is_an_error_with_its_uri(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StorageError, match="file/deeper"):
        (open_location(str(tmp_path)) / "file" / "deeper").write_bytes(b"x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_location_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageAccessError, match=str(tmp_path)):
        (open_location(str(tmp_path)) / "file").write_bytes(b"x")


def test_check_access_local_path_needs_nothing(tmp_path: Path) -> None:
    check_access(open_location(str(tmp_path / "not" / "yet")), StorageConfig())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everywhere")
def test_files_local_folder_that_must_not_be_read_is_refused_and_not_empty(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(StorageAccessError, match="access refused"):
        open_location(str(tmp_path)).files()


def test_files_local_error_of_the_disk_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageAccessError, match="Permission denied"):
        open_location(str(tmp_path)).files()


def test_at_local_takes_names_below_and_absolute_paths(tmp_path: Path) -> None:
    folder = open_location(str(tmp_path / "run"))
    assert folder.at("part").path == str(tmp_path / "run" / "part")
    assert folder.at(str(tmp_path / "old" / "part")).path == str(tmp_path / "old" / "part")


def test_arrow_filesystem_local_reads_what_was_written(tmp_path: Path) -> None:
    location = open_location(str(tmp_path / "file"))
    location.write_bytes(b"content")
    with location.arrow_filesystem().open_input_stream(location.path) as stream:
        assert stream.read() == b"content"


def test_read_tail_local_is_the_end_with_size_and_age(tmp_path: Path) -> None:
    location = open_location(str(tmp_path)) / "file"
    location.write_bytes(b"0123456789")
    os.utime(location.path, (time.time() - 500,) * 2)
    tail = location.read_tail(4)
    assert (tail.data, tail.num_bytes) == (b"6789", 10)
    assert 499 < tail.age_seconds < 560
    assert location.read_tail(100).data == b"0123456789"
    location.write_bytes(b"")
    assert (location.read_tail(100).data, location.read_tail(100).num_bytes) == (b"", 0)
    with pytest.raises(StorageNotFoundError):
        (location / "none").read_tail(4)


def test_read_range_local_is_a_part(tmp_path: Path) -> None:
    location = open_location(str(tmp_path)) / "file"
    location.write_bytes(b"0123456789")
    assert location.read_range(0, 4) == b"0123"
    assert location.read_range(7, 100) == b"789"
    with pytest.raises(StorageNotFoundError):
        (location / "none").read_range(0, 4)


def test_create_bytes_local_outlives_a_power_failure_and_a_lost_answer_of_nfs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content is on the disk before the name, and the name before the answer."""
    link, sync, steps = os.link, os.fsync, []

    def linked(*paths: str) -> None:
        steps.append("link")
        link(*paths)
        if "lost" in paths[1]:
            raise OSError(5, "Input/output error")  # the server made it

    def synced(descriptor: int) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        sync(descriptor)

    monkeypatch.setattr(os, "link", linked)
    monkeypatch.setattr(os, "fsync", synced)
    for name in ("record", "lost"):
        steps.clear()
        assert open_location(str(tmp_path / name)).create_bytes(b"1") is True
        assert steps == ["file", "link", "folder"]
        assert open_location(str(tmp_path / name)).create_bytes(b"2") is False
        assert open_location(str(tmp_path / name)).read_bytes() == b"1"
    assert sorted(os.listdir(tmp_path)) == ["lost", "record"]


def test_create_bytes_local_link_that_was_not_made_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: str) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError, match="Input/output error"):
        open_location(str(tmp_path / "record")).create_bytes(b"1")
    assert os.listdir(tmp_path) == []


def test_sizes_and_folders_local_are_of_this_folder_itself(tmp_path: Path) -> None:
    root = open_location(str(tmp_path))
    for name in ("run/part-1", "run/deep/part-2", "other/x"):
        (root / name).write_bytes(b"123")
    assert (root / "run").sizes() == {"part-1": 3}
    assert (root.folders(), (root / "run").folders()) == (["other", "run"], ["deep"])
    for nothing in (root / "nothing", root / "run" / "part-1"):
        assert nothing.folders() == []
    assert (root / "nothing").sizes() == {}
    assert root.delta_options() is None


def test_sizes_local_beside_writers_misses_nothing_that_stays(tmp_path: Path) -> None:
    """Temporary files come and go meanwhile."""
    root = open_location(str(tmp_path))
    (root / "stays").write_bytes(b"1")
    is_done = threading.Event()

    def write() -> None:
        while not is_done.is_set():
            (root / "changes").write_bytes(b"12")

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2000):
            assert root.sizes()["stays"] == 1
    finally:
        is_done.set()
        for thread in threads:
            thread.join()
