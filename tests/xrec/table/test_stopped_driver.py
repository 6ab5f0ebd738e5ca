"""A driver's process is stopped, another driver takes over, and the first is woken."""

import json
import random
import signal
import time

import pytest

from tests.xrec.table.conftest import Place
from tests.xrec.table.driver import start_driver
from tests.xrec.table.small_table import file_of, users_of

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
