"""Files and folders on a disk and in an object store, and how each store fails."""

import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import deltalake
import pyarrow as pa
import pytest

from tests.errors import raises
from tests.world.store import requests_of
from xrec import errors
from xrec.config import StorageConfig
from xrec.storage import (
    check_access,
    open_location,
    request_each,
)

# On both


def test_listings_contain_only_this_folder(output, monkeypatch):
    for name in ("run/part-1", "run/deep/part-2", "running/other"):
        (output / name).write_bytes(b"123")
    (output / "run" / "part-3").write_bytes(b"")
    run, nothing = output / "run", output / "nothing"
    assert run.files() == ["deep/part-2", "part-1", "part-3"]
    requests = requests_of(monkeypatch)
    assert (run.sizes(), run.folders()) == ({"part-1": 3, "part-3": 0}, ["deep"])
    assert len(requests) <= 2
    assert (nothing.files(), nothing.sizes(), nothing.folders()) == ([], {}, [])
    assert ((run / "part-1").folders(), output.folders()) == ([], ["run", "running"])
    run.delete()
    nothing.delete()
    assert output.files() == ["running/other"]


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        # If a read asked for the size first, it could mix two versions.
        (lambda file: file.read_bytes(), b"0123456789"),
        (lambda file: file.read_range(-4, 4), b"6789"),
        (lambda file: file.read_range(-100, 100), b"0123456789"),
        (lambda file: file.read_range(0, 4), b"0123"),
        (lambda file: file.read_range(7, 100), b"789"),
    ],
)
def test_read_is_one_request_and_raises_not_found(output, monkeypatch, read, expected):
    folder = output / "a folder, 100%"  # URIs escape this name
    (folder / "file").write_bytes(b"0123456789")
    (folder / "empty").write_bytes(b"")
    requests = requests_of(monkeypatch)
    assert read(folder / "file") == expected
    assert requests == (["get_object"] if folder.uri.startswith("s3://") else [])
    with raises(errors.StorageNotFoundError, "not_found", (folder / "none").uri):
        read(folder / "none")
    assert (folder / "empty").read_range(-100, 100) == b""


@pytest.mark.parametrize("size", [20, 6_000_000])
def test_second_creation_returns_false_and_changes_nothing(output, size):
    location = output / "deep" / "record"
    assert location.create_bytes(b"1" * size) is True
    assert location.create_bytes(b"2" * size) is False
    assert location.read_bytes() == b"1" * size
    assert (output / "deep").files() == ["record"]


# On a disk


def test_local_file_is_at_its_path_without_a_temporary_file_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    for folder in (str(tmp_path), f"file://{tmp_path}", "."):
        location = open_location(folder) / "a" / "b.txt"
        for text in ("first", "zwölf"):
            location.write_bytes(text.encode())
        assert location.read_text() == (tmp_path / "a" / "b.txt").read_text("utf-8") == "zwölf"
        assert location.uri == str(tmp_path / "a" / "b.txt")
        assert os.listdir(tmp_path / "a") == ["b.txt"]
        assert location.delta_options() is None
    assert open_location("~/y").path == "/home/somebody/y"
    check_access(open_location("x/y"), StorageConfig())


@pytest.mark.parametrize(
    ("function", "number", "do"),
    [
        ("fsync", 28, lambda root: (root / "file").write_bytes(b"newer")),
        ("link", 5, lambda root: (root / "record").create_bytes(b"1")),
        ("walk", 13, lambda root: root.files()),
        ("no", 0, lambda root: (root / "file" / "deeper").write_bytes(b"x")),
    ],
)
def test_local_disk_error_is_raised_and_leaves_the_old_content(
    tmp_path, monkeypatch, function, number, do
):
    root = open_location(str(tmp_path))
    (root / "file").write_bytes(b"old")

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(number, "a broken disk")

    with monkeypatch.context() as patch:
        patch.setattr("xrec.storage.local.os", SimpleNamespace(**{**vars(os), function: fail}))
        with pytest.raises(errors.StorageError) as caught:
            do(root)
    assert isinstance(caught.value, errors.StorageAccessError) is (function == "walk")
    assert (root / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_local_creation_survives_a_power_failure_and_a_lost_response_of_nfs(tmp_path, monkeypatch):
    """The content reaches the disk before the name, and the name before the call returns."""
    link, sync, steps = os.link, os.fsync, []

    def linked(*paths: str) -> None:
        steps.append("link")
        link(*paths)
        if "lost" in paths[1]:
            raise OSError(5, "Input/output error")  # but the server made the link
        if "asked again" in paths[1]:
            raise FileExistsError(17, "File exists")

    def synced(descriptor: int) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        sync(descriptor)

    changed = {"link": linked, "fsync": synced}
    monkeypatch.setattr("xrec.storage.local.os", SimpleNamespace(**{**vars(os), **changed}))
    for name in ("record", "lost", "asked again"):
        steps.clear()
        assert open_location(str(tmp_path / name)).create_bytes(b"1") is True
        assert steps == ["file", "link", "folder"]
        assert open_location(str(tmp_path / name)).create_bytes(b"2") is False
        assert open_location(str(tmp_path / name)).read_bytes() == b"1"
    assert sorted(os.listdir(tmp_path)) == ["asked again", "lost", "record"]


def test_local_sizes_include_every_lasting_file_while_others_come_and_go(tmp_path):
    root, is_done = open_location(str(tmp_path)), threading.Event()
    (root / "stays").write_bytes(b"1")

    def write() -> None:
        while not is_done.is_set():
            (root / "changes").write_bytes(b"12")

    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(write) for _ in range(3)]
        try:
            for _ in range(300):
                assert root.sizes()["stays"] == 1
        finally:
            is_done.set()
    assert [writer.result() for writer in writers] == [None] * 3


# In the object store


@pytest.mark.parametrize(
    ("uri", "code"),
    [("gs://bucket/x", "unknown_scheme"), ("s3:///x", "no_bucket"), ("s3:/x", "no_bucket")],
)
def test_unusable_uri_is_refused(uri, code):
    with raises(errors.StorageError, code, uri):
        open_location(uri)


@pytest.mark.parametrize(
    ("uri", "changes", "error", "code"),
    [
        ("s3://no-such-bucket/prefix", {}, errors.StorageNotFoundError, "not_found"),
        (None, {"secret_access_key": "wrong"}, errors.StorageAccessError, "access_refused"),
    ],
)
def test_s3_bucket_that_cannot_be_used_is_an_error(s3, bucket, uri, changes, error, code):
    storage = StorageConfig(**{**s3.storage.model_dump(), **changes})
    root = open_location(uri or bucket, storage)
    file = root / "file"
    doing = [lambda: check_access(root, storage), file.read_bytes]
    if changes:  # SeaweedFS creates a missing bucket at the first write
        doing.append(lambda: file.create_bytes(b"x"))
    for do in doing:
        with raises(error, code) as caught:
            do()
        assert caught.value.key.startswith(root.uri)


def test_s3_unreachable_endpoint_is_reported_after_one_attempt():
    keys = {"access_key_id": "k", "secret_access_key": "s", "region": "us-east-1"}
    storage = StorageConfig(endpoint_url="http://127.0.0.1:9", **keys)
    with raises(errors.StorageUnreachableError, "no_answer", "s3://bucket/prefix"):
        check_access(open_location("s3://bucket/prefix", storage), storage)


def test_s3_table_is_opened_with_the_settings_and_with_the_environment(s3, monkeypatch):
    location = open_location(s3.new_bucket(), s3.storage) / "a folder, 100%"
    options = location.delta_options()
    assert options is not None
    assert options["AWS_ENDPOINT_URL"] == s3.endpoint_url
    deltalake.write_deltalake(location.uri, pa.table({"a": [1]}), storage_options=options)
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    found = open_location(location.uri)
    check_access(found, StorageConfig())
    assert (found / "_delta_log" / f"{0:020d}.json").is_file()
    table = deltalake.DeltaTable(found.uri, storage_options=found.delta_options())
    assert table.to_pyarrow_table().to_pylist() == [{"a": 1}]


# Many requests


def test_request_each_runs_several_at_once_in_order_and_raises_their_errors():
    barriers, numbers = [threading.Barrier(4, timeout=60) for _ in range(16)], itertools.count()

    def request(number: int) -> int:
        barriers[number // 4].wait()  # passes only if these four run at once
        if number == 52:
            raise OSError("no answer")
        return number

    results = request_each(request, numbers)
    assert [next(results) for _ in range(52)] == list(range(52))
    with pytest.raises(OSError, match="no answer"):
        next(results)
    assert next(numbers) <= 64  # few items are read ahead
