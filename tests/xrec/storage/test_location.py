"""Files and folders at a URI: what holds on a disk and in the object store, and how each fails."""

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
    requests,
    storage_errors,
    traffic,
    with_backoff,
)


def test_traffic_is_what_the_store_saw(s3):
    """A proxy counts too. It lets the first two requests fail, so a body is sent three times."""
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


def test_file_is_read_back_as_it_was_last_written(output):
    location = output / "a" / "b.txt"
    assert not location.exists()
    for text in ("first", "zwölf"):
        location.write_bytes(text.encode())
        assert (location.read_text(), location.name, location.is_file()) == (text, "b.txt", True)
    with location.arrow_filesystem().open_input_stream(location.path) as stream:
        assert stream.read() == "zwölf".encode()


def test_files_sizes_and_folders_are_of_this_folder_only(output, monkeypatch):
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
        # A read that asked for the size first could have halves of two versions.
        (lambda file: file.read_bytes(), b"0123456789"),
        (lambda file: file.read_range(-4, 4), b"6789"),
        (lambda file: file.read_range(-100, 100), b"0123456789"),
        (lambda file: file.read_range(0, 4), b"0123"),
        (lambda file: file.read_range(7, 100), b"789"),
    ],
)
def test_read_is_one_request_and_of_no_file_not_found(output, monkeypatch, read, expected):
    folder = output / "a folder, 100%"  # a name that URIs escape
    (folder / "file").write_bytes(b"0123456789")
    (folder / "empty").write_bytes(b"")
    requests = requests_of(monkeypatch)
    assert read(folder / "file") == expected
    assert requests == (["get_object"] if folder.uri.startswith("s3://") else [])
    with raises(errors.StorageNotFoundError, "not_found", (folder / "none").uri):
        read(folder / "none")
    assert (folder / "empty").read_range(-100, 100) == b""


@pytest.mark.parametrize("size", [20, 6_000_000])
def test_second_creator_is_told_and_changes_nothing(output, size):
    location = output / "deep" / "record"
    assert location.create_bytes(b"1" * size) is True
    assert location.create_bytes(b"2" * size) is False
    assert location.read_bytes() == b"1" * size
    assert (output / "deep").files() == ["record"]


def test_of_eight_creators_at_once_exactly_one_wins(output):
    with ThreadPoolExecutor(8) as pool:
        for turn in range(2):
            location = output / f"record-{turn}"
            contents = [f"writer {number}".encode() for number in range(8)]
            won = list(pool.map(location.create_bytes, contents))
            assert sum(won) == 1
            assert location.read_bytes() == contents[won.index(True)]


# On a disk


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_local_file_lies_at_its_path_and_no_temporary_file_beside_it(tmp_path, form):
    location = open_location(form.format(tmp_path)) / "a" / "b.txt"
    location.write_bytes("zwölf".encode())
    assert (tmp_path / "a" / "b.txt").read_text(encoding="utf-8") == "zwölf"
    assert location.uri == str(tmp_path / "a" / "b.txt")
    assert os.listdir(tmp_path / "a") == ["b.txt"]
    assert location.delta_options() is None


def test_local_relative_home_and_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    folder = open_location("x/y")
    assert folder.path == str(tmp_path / "x" / "y")
    assert open_location("~/y").path == "/home/somebody/y"
    check_access(folder, StorageConfig())


@pytest.mark.parametrize(
    ("function", "number", "do", "error"),
    [
        (
            "fsync",
            28,
            lambda root: (root / "file").write_bytes(b"newer"),
            errors.StorageError,
        ),
        ("link", 5, lambda root: (root / "record").create_bytes(b"1"), errors.StorageError),
        ("walk", 13, lambda root: root.files(), errors.StorageAccessError),
        ("no", 0, lambda root: (root / "file" / "deeper").write_bytes(b"x"), errors.StorageError),
    ],
)
def test_local_error_of_the_disk_is_raised_and_leaves_the_old_content(
    tmp_path, monkeypatch, function, number, do, error
):
    root = open_location(str(tmp_path))
    (root / "file").write_bytes(b"old")

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(number, "a broken disk")

    with monkeypatch.context() as patch:
        patch.setattr("xrec.storage.local.os", SimpleNamespace(**{**vars(os), function: fail}))
        with pytest.raises(error):
            do(root)
    assert (root / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_local_creation_outlives_a_power_failure_and_a_lost_answer_of_nfs(tmp_path, monkeypatch):
    """The content is on the disk before the name, and the name before the answer."""
    link, sync, steps = os.link, os.fsync, []

    def linked(*paths: str) -> None:
        steps.append("link")
        link(*paths)
        if "lost" in paths[1]:
            raise OSError(5, "Input/output error")  # the server made it
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


def test_local_sizes_beside_writers_miss_nothing_that_stays(tmp_path):
    """Temporary files come and go meanwhile."""
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
    [
        ("gs://bucket/x", "unknown_scheme"),
        ("s3://", "no_bucket"),
        ("s3:///x", "no_bucket"),
        ("s3:/x", "no_bucket"),
    ],
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
    if changes:  # SeaweedFS makes a bucket that is written to
        doing.append(lambda: file.create_bytes(b"x"))
    for do in doing:
        with raises(error, code) as told:
            do()
        assert told.value.key.startswith(root.uri)


def test_s3_unreachable_endpoint_is_told_after_one_try():
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


def test_request_each_keeps_the_order_and_takes_few_items_ahead():
    taken: list[int] = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    results = request_each(lambda number: number * 2, endless())
    assert [next(results) for _ in range(50)] == [number * 2 for number in range(50)]
    assert len(taken) <= 60


def test_request_each_runs_some_at_the_same_time_and_raises_what_one_raised():
    barrier = threading.Barrier(4, timeout=30)  # passes only if four are in flight together

    def request(number: int) -> int:
        barrier.wait()
        if number == 7:
            raise OSError("no answer")
        return number

    assert list(request_each(request, range(4))) == [0, 1, 2, 3]
    with pytest.raises(OSError, match="no answer"):
        list(request_each(request, range(8)))


def test_message_has_the_first_line_of_what_a_store_said():
    with (
        raises(errors.StorageNotFoundError, "not_found", "s3://a/b") as error,
        storage_errors("s3://a/b"),
    ):
        raise FileNotFoundError("Object b not found\n  <?xml version=...?>")
    assert "(Object b not found)" in str(error.value)


@pytest.mark.parametrize(
    ("kind", "num_calls"), [(errors.StorageError, 4), (errors.StorageNotFoundError, 1)]
)
def test_store_that_fails_is_asked_three_times_more_and_one_that_refuses_is_not(
    monkeypatch, kind, num_calls
):
    calls = []

    def fail() -> None:
        calls.append(1)
        raise kind("no", code="store_failed")

    monkeypatch.setattr(requests, "WAITS_SECONDS", (0.0, 0.0, 0.0))
    with pytest.raises(kind):
        with_backoff(fail)
    assert len(calls) == num_calls
