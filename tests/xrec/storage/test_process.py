"""Whether a driver of this machine has died, with processes that begin and end."""

import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from xrec.storage.process import has_died, may_be_at_work, this_process

TELL = (
    "import time; from xrec.storage.process import this_process; print(this_process(), flush=True)"
)
LATER = datetime.now(UTC) + timedelta(hours=1)


def child(script: str) -> "tuple[subprocess.Popen[str], str]":
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_process_that_was_killed_has_died_even_if_nobody_waited_for_it():
    process, holder = child(f"{TELL}; time.sleep(600)")
    try:
        assert not has_died(holder)
        assert may_be_at_work(holder, LATER)
        process.send_signal(signal.SIGKILL)
        # Its parent has not waited, so its id is still taken.
        deadline = datetime.now(UTC) + timedelta(seconds=30)
        while not has_died(holder) and datetime.now(UTC) < deadline:
            pass
        assert has_died(holder)
        assert not may_be_at_work(holder, LATER)
    finally:
        process.kill()
        process.wait()
    assert has_died(holder)


def test_process_whose_id_another_one_has_now_has_died():
    host, _, unique = this_process().rpartition("-")
    assert not has_died(f"{host}-{unique}")
    assert has_died(f"{host}-1)")


@pytest.mark.parametrize(
    "holder", ["the other driver", "a-host, process 1", "a-host, process 999999999 (0a1b2c3d-77)"]
)
def test_driver_of_another_machine_is_waited_for_as_long_as_it_may_be_alive(holder):
    assert not has_died(holder)
    assert may_be_at_work(holder, LATER)
    assert not may_be_at_work(holder, datetime.now(UTC) - timedelta(seconds=1))
    assert not may_be_at_work(holder, None)
