"""The real object store: what s3:// promises, and how it fails."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import deltalake
import pyarrow as pa
import pytest
import s3fs

from tests.object_store import requests_of
from xrec.config.shared import StorageConfig
from xrec.errors import StorageAccessError, StorageNotFoundError, StorageUnreachableError
from xrec.storage import check_access, open_location


class Store(Protocol):
    endpoint_url: str
    storage: StorageConfig
    environment: dict[str, str]

    def new_bucket(self) -> str: ...


def test_location_s3_round_trip_is_readable_by_a_plain_client(s3: Store) -> None:
    bucket = s3.new_bucket()
    location = open_location(bucket, s3.storage) / "a" / "b.txt"
    assert not location.exists()
    location.write_bytes(b"first")
    location.write_bytes("sécond".encode())
    assert location.read_text() == "sécond"
    plain = s3fs.S3FileSystem(
        endpoint_url=s3.endpoint_url,
        key=s3.storage.access_key_id.get_secret_value(),
        secret=s3.storage.secret_access_key.get_secret_value(),
        skip_instance_cache=True,
    )
    assert plain.cat_file(bucket.removeprefix("s3://") + "/a/b.txt") == "sécond".encode()


def test_read_bytes_s3_is_one_request(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that asked for the size first could read half of one version and half of the next."""
    location = open_location(s3.new_bucket(), s3.storage) / "a"
    location.write_bytes(b"content")
    requests = requests_of(monkeypatch)
    assert location.read_bytes() == b"content"
    assert requests == ["get_object"]


def test_location_s3_files_and_delete_cover_the_folder_only(s3: Store) -> None:
    root = open_location(s3.new_bucket(), s3.storage)
    for name in ("run/part-1", "run/deep/part-2", "running/other"):
        (root / name).write_bytes(b"x")
    assert (root / "run").files() == ["deep/part-2", "part-1"]
    (root / "run").delete()
    assert root.files() == ["running/other"]
    assert (root / "nothing").files() == []


@pytest.mark.parametrize("size", [20, 6_000_000])
def test_create_bytes_s3_second_writer_is_told_and_changes_nothing(s3: Store, size: int) -> None:
    location = open_location(s3.new_bucket(), s3.storage) / "record"
    assert location.create_bytes(b"1" * size) is True
    assert location.create_bytes(b"2" * size) is False
    assert location.read_bytes() == b"1" * size


def test_create_bytes_s3_eight_writers_race_exactly_one_wins(s3: Store) -> None:
    root = open_location(s3.new_bucket(), s3.storage)
    with ThreadPoolExecutor(8) as pool:
        for turn in range(5):
            location = root / f"record-{turn}"
            contents = [f"writer {number}".encode() for number in range(8)]
            won = list(pool.map(location.create_bytes, contents))
            assert sum(won) == 1
            assert location.read_bytes() == contents[won.index(True)]


def test_storage_s3_wrong_secret_is_refused(s3: Store) -> None:
    values = {**s3.storage.model_dump(), "secret_access_key": "wrong"}
    wrong = StorageConfig(**values)
    uri = s3.new_bucket()
    with pytest.raises(StorageAccessError, match=f"{uri}.*AWS_SECRET_ACCESS_KEY"):
        check_access(open_location(uri, wrong), wrong)
    with pytest.raises(StorageAccessError, match=uri):
        (open_location(uri, wrong) / "file").read_bytes()
    with pytest.raises(StorageAccessError, match=uri):
        (open_location(uri, wrong) / "file").create_bytes(b"x")


def test_storage_s3_missing_bucket_is_not_found(s3: Store) -> None:
    location = open_location("s3://no-such-bucket/prefix", s3.storage)
    with pytest.raises(StorageNotFoundError, match="s3://no-such-bucket/prefix"):
        check_access(location, s3.storage)
    with pytest.raises(StorageNotFoundError, match="s3://no-such-bucket/prefix/file"):
        (location / "file").read_bytes()


def test_storage_s3_unreachable_endpoint_is_told_after_one_try() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        storage = StorageConfig(
            endpoint_url=endpoint, access_key_id="k", secret_access_key="s", region="us-east-1"
        )
        started = time.monotonic()
        with pytest.raises(StorageUnreachableError, match=r"s3://bucket/prefix.*endpoint_url"):
            check_access(open_location("s3://bucket/prefix", storage), storage)
        assert time.monotonic() - started < 60  # a guard against endless retries, not a measurement


def test_storage_s3_credentials_from_the_environment_open_it(s3_environment: Store) -> None:
    location = open_location(s3_environment.new_bucket()) / "file"
    check_access(location, StorageConfig())
    location.write_bytes(b"x")
    assert location.read_bytes() == b"x"


def test_arrow_filesystem_s3_reads_what_was_written(s3: Store) -> None:
    location = open_location(s3.new_bucket(), s3.storage) / "file"
    location.write_bytes(b"content")
    with location.arrow_filesystem().open_input_stream(location.path) as stream:
        assert stream.read() == b"content"


def test_read_tail_s3_is_the_end_with_size_and_age_in_one_request(
    s3: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = open_location(s3.new_bucket(), s3.storage) / "file"
    location.write_bytes(b"0123456789")
    requests = requests_of(monkeypatch)
    tail = location.read_tail(4)
    assert requests == ["get_object"]
    assert (tail.data, tail.num_bytes) == (b"6789", 10)
    assert -2 < tail.age_seconds < 60
    assert location.read_tail(100).data == b"0123456789"
    location.write_bytes(b"")
    assert (location.read_tail(100).data, location.read_tail(100).num_bytes) == (b"", 0)
    with pytest.raises(StorageNotFoundError):
        (location / "none").read_tail(4)


def test_read_range_s3_is_a_part_in_one_request(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    location = open_location(s3.new_bucket(), s3.storage) / "file"
    location.write_bytes(b"0123456789")
    requests = requests_of(monkeypatch)
    assert location.read_range(0, 4) == b"0123"
    assert requests == ["get_object"]
    assert location.read_range(7, 100) == b"789"
    with pytest.raises(StorageNotFoundError):
        (location / "none").read_range(0, 4)


def test_sizes_and_folders_s3_are_of_this_folder_itself_in_one_request(
    s3: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = open_location(s3.new_bucket(), s3.storage) / "a folder, 100%"
    for name in ("run/part-1", "run/deep/part-2", "running/x"):
        (root / name).write_bytes(b"123")
    requests = requests_of(monkeypatch)
    assert (root / "run").sizes() == {"part-1": 3}
    assert root.folders() == ["run", "running"]
    assert len(requests) <= 2
    (root / "run" / "part-3").write_bytes(b"")
    assert (root / "run").sizes() == {"part-1": 3, "part-3": 0}
    assert ((root / "nothing").sizes(), (root / "nothing").folders()) == ({}, [])


def test_delta_options_s3_open_a_table_with_the_settings_and_with_the_environment(
    s3: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = open_location(s3.new_bucket(), s3.storage) / "a folder, 100%"
    options = location.delta_options()
    assert options is not None
    assert options["AWS_ENDPOINT_URL"] == s3.endpoint_url
    deltalake.write_deltalake(location.shared_uri, pa.table({"a": [1]}), storage_options=options)
    assert (location / "_delta_log" / f"{0:020d}.json").is_file()
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    found = open_location(location.uri)
    table = deltalake.DeltaTable(found.shared_uri, storage_options=found.delta_options())
    assert table.to_pyarrow_table().to_pylist() == [{"a": 1}]
