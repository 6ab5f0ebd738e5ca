"""Two drivers of one training: the second is told so, whatever became of the first."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from xrec.errors import LeaseError, StorageUnreachableError
from xrec.storage import Location, open_location
from xrec.train.lease import only_driver

SHORT = timedelta(seconds=0.8)


def test_second_driver_is_refused_and_a_failed_one_is_not_waited_for(output):
    with suppress(ZeroDivisionError), only_driver(output, holder="the first"):
        with (
            pytest.raises(LeaseError, match=r"the first trains this very run.*until 2"),
            only_driver(output, holder="the second"),
        ):
            pass
        raise ZeroDivisionError
    for _ in range(2):  # nor is the same process
        with only_driver(output, holder="the second"):
            pass


def test_second_driver_is_refused_while_the_first_trains_and_for_the_rest_of_its_lease(tmp_path):
    checkpoints = open_location(str(tmp_path))
    with only_driver(checkpoints, holder="the first", lease=SHORT):
        time.sleep(2 * SHORT.total_seconds())  # renewed meanwhile
        with pytest.raises(LeaseError), only_driver(checkpoints, holder="the second"):
            pass
    with pytest.raises(LeaseError), only_driver(checkpoints, holder="the second"):
        pass
    time.sleep(SHORT.total_seconds())
    with only_driver(checkpoints, holder="the second"):
        pass


def test_driver_that_was_killed_is_not_waited_for(tmp_path):
    script = (
        "import sys, time; from xrec.storage import open_location; "
        "from xrec.train.lease import only_driver\n"
        "with only_driver(open_location(sys.argv[1])): print('in', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "in\n"
        location = open_location(str(tmp_path))
        with pytest.raises(LeaseError), only_driver(location):
            pass
    finally:
        process.kill()
        process.wait()
    with only_driver(location):
        pass


def test_store_that_fails_meanwhile_ends_no_training(tmp_path, monkeypatch):
    location = open_location(str(tmp_path))
    write: Callable[[Location, bytes], None] = type(location).write_bytes
    failures = []

    def fails_twice(self: Location, data: bytes) -> None:
        if len(failures) < 2:
            failures.append(data)
            raise StorageUnreachableError("no answer")
        write(self, data)

    begun = datetime.now(UTC)
    with only_driver(location, holder="the first", lease=SHORT):
        monkeypatch.setattr(type(location), "write_bytes", fails_twice)
        time.sleep(2 * SHORT.total_seconds())
    there = json.loads((tmp_path / "driver.json").read_text())
    assert len(failures) == 2
    assert datetime.fromisoformat(there["expires_at"]) > begun + 2 * SHORT
