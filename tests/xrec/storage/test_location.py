"""Files and folders on a disk and in an object store, and how each store fails."""

import itertools
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import deltalake
import pyarrow as pa
import pytest

from tests.errors import raises
from tests.world.store import Faults, faulty_proxy, requests_of
from xrec import errors
from xrec.config import StorageConfig
from xrec.storage import (
    check_access,
    open_location,
    request_each,
    storage_errors,
    traffic,
)


def test_traffic_is_what_the_store_saw(s3):
    """A proxy counts too, and fails the first two requests, so a body is sent three times."""
    faults = Faults(0.0, burst=3)
    with faulty_proxy(s3.storage.endpoint_url, faults) as url:
        storage = s3.storage.model_copy(update={"endpoint_url": url})
        folder = open_location(f"{s3.new_bucket()}/some", storage)
        traffic()
        (folder / "a").write_bytes(b"x" * 1000)
        assert (folder / "b").create_bytes(b"y" * 10)
        assert len((folder / "a").read_bytes() + (folder / "a").read_range(-7, 7)) == 1007
        assert traffic() == {
            "store_requests": faults.num_requests,
            "bytes_written": 3 * 1000 + 10,
            "bytes_read": 1000 + 7,
        }
        assert folder.files() == ["a", "b"]
        assert traffic(take=False)["bytes_read"] > 100  # a listing
        assert traffic()["store_requests"] == faults.num_requests - 6
        assert traffic() == {}


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


def test_request_each_keeps_the_order_and_reads_few_items_ahead():
    taken: list[int] = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    results = request_each(lambda number: number * 2, endless())
    assert [next(results) for _ in range(50)] == [number * 2 for number in range(50)]
    assert len(taken) <= 60


def test_request_each_runs_several_at_once_and_raises_their_errors():
    barrier = threading.Barrier(4, timeout=30)  # passes only if four run at once

    def request(number: int) -> int:
        barrier.wait()
        if number == 7:
            raise OSError("no answer")
        return number

    assert list(request_each(request, range(4))) == [0, 1, 2, 3]
    with pytest.raises(OSError, match="no answer"):
        list(request_each(request, range(8)))


def test_message_has_the_first_line_of_the_stores_error():
    missing = raises(errors.StorageNotFoundError, "not_found", "s3://a/b")
    with missing as error, storage_errors("s3://a/b"):
        raise FileNotFoundError("Object b not found\n  <?xml version=...?>")
    assert "(Object b not found)" in str(error.value)
