"""The log: entries are made once, and the newest is found in few requests."""

import math
import socket
from typing import Any

import pytest

from tests.xrec.table.conftest import Place
from xrec.config.shared import StorageConfig
from xrec.errors import StorageUnreachableError
from xrec.storage import Location, open_location
from xrec.storage.local import LocalLocation
from xrec.table.log import Commit, Log


def _fill(log: Log, versions: range) -> None:
    for version in versions:
        assert log.create(version, _commit(), [])


def _commit(**metadata: Any) -> Commit:
    return Commit.new(epoch=1, holder="driver", kind="write", metadata=metadata)


def test_log_entry_is_created_once_and_read_back(disk: Place) -> None:
    log = Log(disk.location)
    commit = _commit(name="größe", numbers=[1, 2.5])
    assert log.create(3, commit, [{"add": {"path": "a"}}])
    assert not log.create(3, _commit(), [])
    assert log.read(3) == (commit, [{"add": {"path": "a"}}])


@pytest.mark.parametrize("value", [math.nan, math.inf, {"deep": [math.nan]}, {1, 2}])
def test_log_metadata_that_json_cannot_express_is_refused(disk: Place, value: Any) -> None:
    writer = disk.table().take_over("driver")
    with pytest.raises(ValueError, match="JSON cannot express it"):
        writer.commit(metadata={"value": value})
    assert writer.commit() == 2  # the writer can go on


@pytest.mark.parametrize("newest", [0, 1, 2, 3, 7, 8, 50, 99])
def test_log_newest_is_found_from_any_known_version(disk: Place, newest: int) -> None:
    log = Log(disk.location)
    assert log.newest() is None
    _fill(log, range(newest + 1))
    assert {log.newest(known) for known in [None, *range(newest + 1)]} == {newest}


def test_log_newest_takes_two_requests_if_it_is_known_and_few_if_not(
    disk: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(disk.location)
    _fill(log, range(200))
    asked: list[Location] = []
    modified_at = LocalLocation.modified_at
    monkeypatch.setattr(
        LocalLocation,
        "modified_at",
        lambda location: asked.append(location) or modified_at(location),
    )
    monkeypatch.setattr(LocalLocation, "files", None)
    assert log.newest(199) == 199
    assert len(asked) == 2
    assert log.newest(0) == 199
    assert len(asked) <= 2 + 18


def test_log_that_was_cut_is_found_from_a_version_that_is_gone(disk: Place) -> None:
    log = Log(disk.location)
    _fill(log, range(10))
    assert log.delete_before(6) == 6
    assert log.versions() == [6, 7, 8, 9]
    assert log.newest(2) == log.newest() == 9


def test_log_is_cut_oldest_entry_first(disk: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(disk.location)
    _fill(log, range(12))
    deleted: list[str] = []
    delete = LocalLocation.delete
    monkeypatch.setattr(
        LocalLocation, "delete", lambda location: deleted.append(location.name) or delete(location)
    )
    log.delete_before(11)
    assert deleted == [f"{version:020d}.json" for version in range(11)]


def test_log_entry_below_a_gap_is_no_part_of_the_log(disk: Place) -> None:
    log = Log(disk.location)
    _fill(log, range(10))
    log.delete_before(6)
    assert log.create(3, _commit(), [])  # by a driver that slept
    assert log.versions() == [6, 7, 8, 9]


def test_log_on_a_store_that_does_not_answer_is_not_taken_for_empty() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        storage = StorageConfig(
            endpoint_url=f"http://127.0.0.1:{taken.getsockname()[1]}",
            access_key_id="any",
            secret_access_key="any",
            max_attempts=1,
        )
        log = Log(open_location("s3://bucket/table", storage))
        with pytest.raises(StorageUnreachableError):
            log.has(0)


def test_log_entry_may_hold_strings_with_any_end_of_line(disk: Place) -> None:
    log = Log(disk.location)
    lines = [{"add": {"path": "a\u2028b\u0085c\x0cd", "note": "e\nf"}}]
    assert log.create(3, _commit(), lines)
    assert log.read(3)[1] == lines
