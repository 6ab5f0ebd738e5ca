"""Making and opening tables, and what is refused with a clear error."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import deltalake
import pyarrow as pa
import pytest

from tests.object_store import ObjectStore, requests_of
from tests.xrec.table.conftest import Place
from tests.xrec.table.small_table import FORMAT, file_of, users_of
from tests.xrec.table.unconditional_store import unconditional_store
from xrec.config.shared import StorageConfig
from xrec.errors import StorageAccessError, StorageError, StorageNotFoundError, TableError
from xrec.storage import Location
from xrec.table import Table, TableFormat
from xrec.table.log import Log


def test_create_by_many_at_once_makes_one_table(place: Place) -> None:
    with ThreadPoolExecutor(4) as pool:
        tables = list(pool.map(lambda _: place.table(), range(4)))
    assert len({(table.run, table.format.partition_by) for table in tables}) == 1
    assert Log(place.location).versions() == [0]
    assert place.table().format == FORMAT


def test_table_of_another_run_is_refused(disk: Place) -> None:
    disk.table()
    with pytest.raises(TableError, match="holds the table of run this-run, expected run that-run"):
        Table.create(disk.uri, FORMAT, run="that-run")
    with pytest.raises(TableError, match="expected run that-run"):
        Table.open(disk.uri, run="that-run")
    assert Table.open(disk.uri).run == "this-run"


def test_table_of_another_format_is_refused(disk: Place) -> None:
    disk.table()
    other = TableFormat(FORMAT.schema, FORMAT.partition_by, ("bucket", "user"))
    with pytest.raises(TableError, match="holds a table of another format"):
        Table.create(disk.uri, other, run="this-run")


def test_table_where_an_older_layout_lies_is_refused(place: Place) -> None:
    for name in ("plan.json", "commits/00000.json", "part-00000-0a.parquet", "_xrec/notes"):
        (place.location / name).write_bytes(b"{}")
    with pytest.raises(TableError, match=r"no table but 3 other files, such as commits/00000.json"):
        place.table()
    with pytest.raises(TableError, match="holds no table"):
        Table.open(place.uri, storage=place.storage)


def test_table_that_another_program_made_is_refused(disk: Place) -> None:
    deltalake.write_deltalake(disk.uri, pa.table({"x": [1]}))
    for start in (disk.table, lambda: Table.open(disk.uri)):
        with pytest.raises(TableError, match="xrec did not make it"):
            start()


def test_table_of_a_later_layout_is_refused(disk: Place) -> None:
    disk.table()
    entry = Log(disk.location).entry(0)
    entry.write_bytes(entry.read_bytes().replace(b'"xrec.layout":"1"', b'"xrec.layout":"2"'))
    with pytest.raises(TableError, match="its layout is 2, expected layout 1"):
        Table.open(disk.uri)


def test_table_whose_log_is_damaged_is_refused(disk: Place) -> None:
    table = disk.table()
    table.take_over("driver").commit([file_of(table, 1, "a")])
    entry = Log(disk.location).entry(1)
    entry.write_bytes(entry.read_bytes().replace(b'"epoch":1', b'"era":1'))
    with pytest.raises(TableError, match="not a commit that this xrec"):
        table.snapshot(1)


def test_table_on_a_store_that_cannot_be_used_is_told_as_such(s3: ObjectStore) -> None:
    wrong = StorageConfig(**{**s3.storage.model_dump(), "secret_access_key": "wrong"})
    with pytest.raises(StorageAccessError, match="AWS_SECRET_ACCESS_KEY"):
        Table.create(f"{s3.new_bucket()}/table", FORMAT, run="r", storage=wrong)
    with pytest.raises(StorageNotFoundError, match="no-such-bucket"):
        Table.create("s3://no-such-bucket/table", FORMAT, run="r", storage=s3.storage)


@pytest.mark.parametrize("refuses", [False, True])
def test_table_on_a_store_without_conditional_writes_is_refused(refuses: bool) -> None:
    """The store either does not look at If-None-Match, or answers that it does not have it."""
    with (
        unconditional_store(refuses) as storage,
        pytest.raises(TableError, match="no conditional writes"),
    ):
        Table.create("s3://bucket/table", FORMAT, run="r", storage=storage)


def test_table_on_a_full_disk_is_not_taken_for_one_without_conditional_writes(
    disk: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = disk.table()

    def full(location: Location, data: bytes) -> bool:
        raise StorageError(f"{location}: No space left on device")

    for name in ("create_bytes", "write_bytes"):
        monkeypatch.setattr(type(table.location), name, full)
    with pytest.raises(StorageError, match="No space left on device"):
        table.take_over("driver")


def test_table_metadata_comes_back_by_version_and_in_order(place: Place) -> None:
    table = place.table()
    writer = table.take_over("driver")
    for bucket in range(3):
        writer.commit([file_of(table, bucket, f"u{bucket}")], metadata={"cost": bucket})
    assert [table.snapshot(version).metadata for version in (2, 4)] == [{"cost": 0}, {"cost": 2}]
    history = list(table.history(after=1))
    assert [(version, commit.metadata["cost"]) for version, commit in history] == [
        (2, 0),
        (3, 1),
        (4, 2),
    ]
    assert {(commit.holder, commit.epoch) for _, commit in history} == {("driver", 1)}
    assert table.newest_version(known=2) == 4


def test_commit_of_a_version_is_who_made_it(disk: Place) -> None:
    table = disk.table()
    version = table.take_over("host-3").commit(metadata={"seconds": 3})
    assert table.commit(version).metadata == {"seconds": 3}
    assert (table.commit(version).holder, table.commit(version - 1).kind) == ("host-3", "take-over")
    with pytest.raises(StorageNotFoundError):
        table.commit(version + 1)


def test_table_checkpoints_are_written_and_read(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xrec.table import writer as writer_module

    monkeypatch.setattr(writer_module, "CHECKPOINT_INTERVAL", 3)
    table = place.table()
    writer = table.take_over("driver")
    for bucket in range(6):
        writer.commit([file_of(table, bucket, f"u{bucket}")])
    log = Log(place.location)
    assert log.checkpoints() == [3, 6]
    assert json.loads((place.location / "_delta_log/_last_checkpoint").read_text())["version"] == 6
    for version in range(6):
        log.entry(version).delete()
    assert users_of(Table.open(place.uri, storage=place.storage).snapshot()) == [
        f"u{bucket}" for bucket in range(6)
    ]
    assert table.take_over("next").num_rows == 6


def test_table_with_many_files_has_its_checkpoints_further_apart(
    disk: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xrec.table import writer as writer_module

    monkeypatch.setattr(writer_module, "CHECKPOINT_INTERVAL", 2)
    monkeypatch.setattr(writer_module, "FILES_PER_COMMIT", 3)
    table = disk.table()
    for number in range(9):  # drivers that make one commit each
        writer = table.take_over(f"driver-{number}")
        writer.commit([file_of(table, number, f"u{number}-{each}") for each in "ab"])
    # Versions 2, 4, ... have as many files: interval 2 at 8 of them, 3 at 10, 4 at 12, 6 at 18.
    assert Log(disk.location).checkpoints() == [2, 4, 6, 8, 12, 18]
    assert table.snapshot().rows == 18


def test_table_whose_checkpoint_fails_goes_on(disk: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from xrec.table import writer as writer_module

    def fail(delta: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr(writer_module, "CHECKPOINT_INTERVAL", 1)
    monkeypatch.setattr(deltalake.DeltaTable, "create_checkpoint", fail)
    table = disk.table()
    writer = table.take_over("driver")
    writer.commit([file_of(table, 1, "a")])
    assert users_of(table.snapshot()) == ["a"]


@pytest.mark.parametrize("name", ["", "../x", "_x", "a/b"])
def test_pin_by_a_name_that_is_no_file_s_is_refused(disk: Place, name: str) -> None:
    with pytest.raises(ValueError, match="expected letters"):
        disk.table().pin(name, 0)


def test_pin_of_a_version_that_is_not_there_is_refused(disk: Place) -> None:
    table = disk.table()
    with pytest.raises(TableError, match="version 7 is not in the log, which has 0 to 0;"):
        table.pin("published", 7)
    table.take_over("driver").vacuum()  # no pin is left that it would stumble over


def test_table_that_a_worker_got_by_pickle_takes_its_files(place: Place) -> None:
    """Ray sends the location to workers, and what they return to the driver."""
    table = place.table()
    worker_s: Table = pickle.loads(pickle.dumps(table))
    file = pickle.loads(pickle.dumps(file_of(worker_s, 1, "a")))
    table.take_over("driver").commit([file])
    assert users_of(worker_s.snapshot()) == ["a"]


def test_commit_s3_takes_two_requests_and_one_for_each_file(
    s3: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Place(f"{s3.new_bucket()}/table", s3.storage).table()
    writer = table.take_over("driver")
    files = [file_of(table, bucket, f"u{bucket}") for bucket in range(5)]
    requests = requests_of(monkeypatch)
    writer.commit(files)
    assert sorted(requests) == ["get_object"] * 5 + ["head_object", "put_object"]


def test_open_reads_the_first_entry_only(disk: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.table().take_over("driver")
    monkeypatch.setattr(deltalake, "DeltaTable", None)
    assert Table.open(disk.uri).format == FORMAT
