"""Invariants 1 to 3 of xrec.table: versions, drivers that are replaced, take-overs."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import deltalake
import pytest

from tests.xrec.table.conftest import Place
from tests.xrec.table.driver import start_driver
from tests.xrec.table.small_table import (
    file_of,
    make_older,
    users_of,
)
from xrec.errors import (
    LostTableError,
    StorageError,
    TableError,
)
from xrec.table import Writer
from xrec.table import writer as writer_module
from xrec.table.log import Log

HOUR = timedelta(hours=1)


@contextmanager
def before_entry(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> Iterator[None]:
    """Let something happen once, right before the next entry of a log is created."""
    create = Log.create
    calls: list[int] = []

    def create_later(log: Log, version: int, *arguments: Any) -> bool:
        if not calls:
            calls.append(version)
            do()
        return create(log, version, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "create", create_later)
        yield
    assert calls


# 1. A version is committed once.


def test_invariant_1_writers_at_the_same_version_commit_once(place: Place) -> None:
    table = place.table()
    first = table.take_over("first")
    twin = Writer(table.location, table.storage, first.snapshot())  # as a forked process has it
    ones, others = file_of(table, 1, "a"), file_of(table, 2, "b")
    with ThreadPoolExecutor(2) as pool:
        results = list(
            pool.map(
                lambda writer, file: _outcome(lambda: writer.commit([file])),
                (first, twin),
                (ones, others),
            )
        )
    assert sorted(map(str, results)) == [str(first.version), "LostTableError"] or sorted(
        map(str, results)
    ) == [str(twin.version), "LostTableError"]
    assert users_of(table.snapshot()) in (["a"], ["b"])
    assert table.newest_version() == 2


def _outcome(do: Callable[[], Any]) -> Any:
    """What a call returns, or the name of the error that it raises."""
    try:
        return do()
    except (TableError, StorageError) as error:
        return type(error).__name__


# 2. After a take-over no earlier driver commits anything.


def test_invariant_2_commits_of_an_earlier_driver_are_refused_for_good(place: Place) -> None:
    table = place.table()
    asleep = table.take_over("asleep")
    late = file_of(table, 1, "late")
    awake = table.take_over("awake")
    with pytest.raises(LostTableError, match=r"a driver, awake, committed version 2"):
        asleep.commit([late])
    awake.commit([file_of(table, 2, "b")])
    for _ in range(2):
        with pytest.raises(LostTableError, match="awake"):
            asleep.commit([late])
    with pytest.raises(LostTableError, match="awake"):
        asleep.vacuum()
    assert users_of(table.snapshot()) == ["b"]


def test_invariant_2_driver_that_stops_right_before_its_write_is_refused(
    disk: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = disk.table()
    asleep = table.take_over("asleep")
    with before_entry(monkeypatch, lambda: table.take_over("awake")), pytest.raises(LostTableError):
        asleep.commit([file_of(table, 1, "late")])
    assert users_of(table.snapshot()) == []


def test_invariant_2_driver_that_slept_until_the_log_was_cut_makes_no_entry_anew(
    disk: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next entry was made and deleted meanwhile, so the create-only write succeeds."""
    table = disk.table()
    asleep = table.take_over("asleep")
    late = file_of(table, 1, "late")
    entry_of_asleep = Log(table.location).entry(asleep.version + 1)

    def cut_the_log() -> None:
        monkeypatch.setattr(writer_module, "CHECKPOINT_INTERVAL", 4)
        awake = table.take_over("awake")
        for bucket in range(4):
            awake.commit([file_of(table, bucket, f"u{bucket}")])
        make_older(table.location, 1000 * HOUR)
        awake.commit([file_of(table, 9, "u9")])
        assert awake.vacuum(log_retention=200 * HOUR).num_versions == 4
        assert not entry_of_asleep.exists()

    with before_entry(monkeypatch, cut_the_log), pytest.raises(LostTableError, match="awake"):
        asleep.commit([late])
    assert not entry_of_asleep.exists()
    assert users_of(table.snapshot()) == ["u0", "u1", "u2", "u3", "u9"]


def test_invariant_2_driver_that_slept_after_its_write_leaves_what_the_log_still_has(
    disk: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entry is the oldest that is left of the log when it looks for the one before."""
    table = disk.table()
    asleep = table.take_over("asleep")
    for bucket in range(2):
        asleep.commit([file_of(table, bucket, f"u{bucket}")])
    has = Log.has

    def cut_the_log_first(log: Log, version: int) -> bool:
        monkeypatch.setattr(Log, "has", has)
        awake = table.take_over("awake")
        for bucket in range(3, 7):
            awake.commit([file_of(table, bucket, f"u{bucket}")])
        deltalake.DeltaTable(table.location.path, version=4).create_checkpoint()
        table.pin("published", 4)
        make_older(table.location, 1000 * HOUR)
        awake.commit([file_of(table, 7, "u7")])
        assert awake.vacuum(log_retention=200 * HOUR).num_versions == 4
        return has(log, version)

    monkeypatch.setattr(Log, "has", cut_the_log_first)
    with pytest.raises(LostTableError, match="awake"):
        asleep.commit([file_of(table, 2, "u2")])  # version 4
    assert users_of(table.snapshot(4)) == ["u0", "u1", "u2"]
    assert len(users_of(table.snapshot())) == 8


# 3. Each take-over has one winner.


def test_invariant_3_threads_that_take_over_at_the_same_version_have_one_winner(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = place.table()
    barrier = threading.Barrier(4)
    create = Log.create

    def create_together(log: Log, version: int, *arguments: Any) -> bool:
        if version == 1:
            barrier.wait(30)
        return create(log, version, *arguments)

    monkeypatch.setattr(Log, "create", create_together)
    with ThreadPoolExecutor(4) as pool:
        results = list(
            pool.map(lambda name: _outcome(lambda: table.take_over(name).holder), "abcd")
        )
    (winner,) = [result for result in results if result != "LostTableError"]
    assert [commit.holder for _, commit in table.history()] == ["", winner]


def test_invariant_3_processes_that_take_over_at_once_have_epochs_of_their_own(disk: Place) -> None:
    table = disk.table()
    processes = [start_driver(disk, "race", str(number)) for number in range(2)]
    results = [
        json.loads(line)
        for process in processes
        for line in process.communicate(timeout=60)[0].splitlines()
    ]
    epochs = [result["epoch"] for result in results if result["epoch"]]
    assert len(epochs) == len(set(epochs)) >= 3
    committed = [commit for _, commit in table.history() if commit.kind == "write"]
    assert len(committed) == sum(result["committed"] for result in results)
    assert [commit.epoch for commit in committed] == sorted({c.epoch for c in committed})
    assert len(users_of(table.snapshot())) == len(committed)


def test_invariant_1_threads_of_a_driver_commit_one_after_the_other(disk: Place) -> None:
    table = disk.table()
    writer = table.take_over("driver")
    with ThreadPoolExecutor(4) as pool:
        versions = list(
            pool.map(
                lambda bucket: writer.commit([file_of(table, bucket, f"u{bucket}")]), range(12)
            )
        )
    assert sorted(versions) == list(range(2, 14))
    assert len(users_of(table.snapshot())) == 12
