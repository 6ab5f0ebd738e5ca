"""A look-up finds exactly the rows of its version, at few requests, and reads little.

The oracle is the snapshot's dataset, which is read as a whole.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.object_store import requests_of
from tests.xrec.bulk.toy_run import FORMAT, Toy, toy_run
from tests.xrec.table.conftest import Place
from xrec.bulk import compact
from xrec.bulk.lookup import LookupCache, RowLookup
from xrec.errors import DataError, StorageNotFoundError
from xrec.table import Snapshot

ITEMS = ("a", "b", "odd-c", "d", "dull-e", "f")
STRANGERS = ("", "u-", "u-1 ", "u-999", "é\u200f\ud7ff", "\U0010ffff")


def lookup_in(toy: Toy, snapshot: Snapshot, cache: LookupCache | None = None) -> RowLookup:
    return RowLookup(
        toy.run.plan.output,
        snapshot,
        FORMAT.ok_schema,
        num_keys=2,
        num_buckets=toy.run.plan.record.num_buckets,
        cache=cache or LookupCache(2**20),
    )


def rows_by_key(snapshot: Snapshot) -> dict[tuple[str, str], dict[str, Any]]:
    """All rows that succeeded, by user and item, each of which is there once."""
    table = snapshot.dataset([("status", "=", "ok")]).to_table(columns=FORMAT.ok_schema.names)
    rows = {(row["user"], row["item"]): row for row in table.to_pylist()}
    assert len(rows) == table.num_rows
    return rows


def check(lookup: RowLookup, expected: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Look up all pairs and users that are there and some that are not, also in memory."""
    assert lookup.num_rows == len(expected)
    for user in [*(f"u-{number}" for number in range(12)), *STRANGERS]:
        own = [row for _, row in sorted(expected.items()) if row["user"] == user]
        assert lookup.find(user).to_pylist() == own
        for item in (*ITEMS, "", "zzz"):
            row = expected.get((user, item))
            assert lookup.find(user, item).to_pylist() == ([row] if row else [])
            there = lookup.in_memory(user, item)
            assert there is not None
            assert there.to_pylist() == ([row] if row else [])


def test_lookup_at_each_version_finds_exactly_its_rows(place: Place, tmp_path: Path) -> None:
    """After the run, after a retry, and after a compaction; all of them share what they read."""
    toy = toy_run(place, tmp_path, ITEMS)
    cache = LookupCache(2**20)
    toy.drive()
    after_run = toy.snapshot()
    toy.heal()
    toy.drive(retry=["odd"])
    after_retry = toy.snapshot()
    assert compact(toy.run, holder="test") is not None
    snapshots = (after_run, after_retry, toy.snapshot())
    expected = [rows_by_key(snapshot) for snapshot in snapshots]
    assert [len(rows) for rows in expected] == [48, 60, 60]
    assert expected[1] == expected[2]
    for snapshot, rows in zip(snapshots * 2, expected * 2, strict=True):
        check(lookup_in(toy, snapshot, cache), rows)


def test_lookup_of_a_user_with_many_rows_in_several_chunks_finds_all(
    disk: Place, tmp_path: Path
) -> None:
    items = [f"i-{number:03d}" for number in range(40)]
    toy = toy_run(disk, tmp_path, items, num_users=2, rows_per_chunk=5)
    toy.drive()
    assert toy.snapshot().files().num_rows > 10
    for snapshot in (toy.snapshot(), _compacted(toy)):
        found = lookup_in(toy, snapshot).find("u-1")
        assert found["item"].to_pylist() == items


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_lookup_takes_a_request_for_a_file_and_one_for_a_row_group(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of one chunk is read at once; of a larger one first the footer, then a row group."""
    toy = toy_run(place, tmp_path, ITEMS, num_users=40, rows_per_chunk=20)
    toy.drive()
    lookup = lookup_in(toy, toy.snapshot())
    compacted = lookup_in(toy, _compacted(toy))
    monkeypatch.setattr("xrec.storage.row_group._TAIL_BYTES", 64)
    requests = requests_of(monkeypatch)
    assert compacted.in_memory("u-7") is None
    assert compacted.find("u-7").num_rows == 4
    assert requests == ["get_object"] * 3  # the tail, which shows how long the footer is
    requests.clear()
    assert compacted.find("u-8").num_rows == 4
    assert compacted.find("u-8", "a").num_rows == 1
    assert requests == ["get_object"]
    requests.clear()
    monkeypatch.setattr("xrec.storage.row_group._TAIL_BYTES", 2**16)
    assert lookup.find("u-7").num_rows == 4
    assert requests == ["get_object"]


def test_lookup_memory_is_bounded_and_nothing_is_lost_by_it(disk: Place, tmp_path: Path) -> None:
    toy = toy_run(disk, tmp_path, ITEMS, num_users=40)
    toy.drive()
    whole = LookupCache(2**24)
    expected = rows_by_key(toy.snapshot())
    for user, item in expected:
        lookup_in(toy, toy.snapshot(), whole).find(user, item)
    small = LookupCache(whole.num_bytes // 3)
    lookup = lookup_in(toy, toy.snapshot(), small)
    for key, row in expected.items():
        assert lookup.find(*key).to_pylist() == [row]
        assert small.num_bytes <= whole.num_bytes // 3


def test_lookup_in_memory_does_not_guess(disk: Place, tmp_path: Path) -> None:
    toy = toy_run(disk, tmp_path, ITEMS)
    toy.drive()
    lookup = lookup_in(toy, toy.snapshot())
    assert lookup.in_memory("u-1", "a") is None
    assert lookup.in_memory("u-999") is None  # it may be in the files of its bucket
    lookup.find("u-999")
    there = lookup.in_memory("u-999")
    assert there is not None
    assert there.num_rows == 0


@pytest.mark.parametrize("spoil", [b"", b"no Parquet", None])
def test_lookup_in_a_file_that_is_broken_or_gone_is_an_error_that_names_it(
    disk: Place, tmp_path: Path, spoil: bytes | None
) -> None:
    toy = toy_run(disk, tmp_path, ITEMS)
    toy.drive()
    for path in toy.snapshot().files([("status", "=", "ok")])["path"].to_pylist():
        location = disk.location / path
        location.delete() if spoil is None else location.write_bytes(spoil)
    with pytest.raises(StorageNotFoundError if spoil is None else DataError, match="status=ok/"):
        lookup_in(toy, toy.snapshot()).find("u-1", "a")


def _compacted(toy: Toy) -> Snapshot:
    assert compact(toy.run, holder="test") is not None
    return toy.snapshot()


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_footers_that_are_read_ahead_leave_one_request_to_the_first_look_up(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_run(place, tmp_path, ITEMS, num_users=40, rows_per_chunk=20)
    toy.drive()
    compacted = _compacted(toy)
    monkeypatch.setattr("xrec.storage.row_group._TAIL_BYTES", 64)
    lookup = lookup_in(toy, compacted)
    assert lookup.read_footers() == compacted.files([("status", "=", "ok")]).num_rows
    requests = requests_of(monkeypatch)
    assert lookup.find("u-7").num_rows == 4
    assert requests == ["get_object"]


def test_footers_are_read_ahead_only_as_far_as_the_memory_has_room(
    disk: Place, tmp_path: Path
) -> None:
    toy = toy_run(disk, tmp_path, ITEMS)
    toy.drive()
    cache = LookupCache(100)
    lookup = lookup_in(toy, toy.snapshot(), cache)
    lookup.read_footers()
    assert cache.num_bytes <= 100
    assert lookup.find("u-3", "a").num_rows == 1
