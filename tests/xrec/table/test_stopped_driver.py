"""Drivers in processes of their own are stopped, woken, killed, and work at the same time."""

import json
import random
import signal
import time

import pytest

from tests.xrec.table.conftest import Place
from tests.xrec.table.driver import NUM_BUCKETS, start_driver, users_in
from tests.xrec.table.small_table import file_of, users_of
from xrec.table import Table

pytestmark = pytest.mark.slow


def test_driver_stopped_and_woken_after_a_take_over_commits_nothing_more(place: Place) -> None:
    table = place.table()
    draw = random.Random(1)
    expected: list[str] = []
    for turn in range(4):
        stopped = start_driver(place, "commit", f"stopped-{turn}")
        try:
            assert stopped.stdout is not None
            for _ in range(3):
                assert "version" in json.loads(stopped.stdout.readline())
            time.sleep(draw.random() * 0.1)
            stopped.send_signal(signal.SIGSTOP)
            awake = table.take_over(f"awake-{turn}")
            awake.commit([file_of(table, turn, f"awake-{turn}-before")])
            stopped.send_signal(signal.SIGCONT)
            awake.commit([file_of(table, turn, f"awake-{turn}-after")])
            ended = json.loads(stopped.communicate(timeout=60)[0].splitlines()[-1])
        finally:
            stopped.kill()
        assert f"awake-{turn}" in ended["error"]
        expected += [*ended["users"], f"awake-{turn}-before", f"awake-{turn}-after"]
        assert users_of(table.snapshot()) == sorted(expected)


def test_drivers_that_fight_for_a_table_finish_it_with_each_row_once_at_every_version(
    place: Place,
) -> None:
    """Three drivers work on one run; each is stopped, woken, killed and replaced at random."""
    table = place.table()
    draw = random.Random(5)
    drivers = [start_driver(place, "run", str(number)) for number in range(3)]
    num_stops = num_kills = 0
    seen = 0
    try:
        while any(driver.poll() is None for driver in drivers):
            time.sleep(draw.random() * 0.3)
            number = draw.randrange(len(drivers))
            if draw.random() < 0.1 and num_kills < 3 and drivers[number].poll() is None:
                drivers[number].kill()
                drivers[number].communicate()
                num_kills += 1
                drivers[number] = start_driver(place, "run", f"{number}-{num_kills}")
            else:
                drivers[number].send_signal(signal.SIGSTOP)
                time.sleep(draw.random() * 0.5)
                drivers[number].send_signal(signal.SIGCONT)
                num_stops += 1
            seen = _check_versions(table, seen)
    finally:
        for driver in drivers:
            driver.kill()
    assert [driver.returncode for driver in drivers] == [0, 0, 0]
    assert num_stops > 5
    _check_versions(table, seen)
    final = table.snapshot().dataset([("status", "=", "ok")]).to_table()
    assert sorted(final["user"].to_pylist()) == [
        user for bucket in range(NUM_BUCKETS) for user in users_in(bucket)
    ]
    assert len({commit.epoch for _, commit in table.history()}) > 3


def _check_versions(table: Table, first: int) -> int:
    """See that no version from `first` on has a row twice or lost one; returns the next one."""
    newest = table.newest_version(first)
    before: set[str] = set(users_of(table.snapshot(first)))
    for version in range(first, newest + 1):
        users = users_of(table.snapshot(version))
        assert len(users) == len(set(users))
        assert before <= set(users)
        before = set(users)
    return newest
