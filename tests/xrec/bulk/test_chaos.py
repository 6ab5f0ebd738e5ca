"""Drivers in processes of their own are killed, stopped, woken, and started several at a time."""

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faulty_proxy import Faults, faulty_proxy
from tests.xrec.bulk.chaos_driver import ITEMS, planned, start_driver
from tests.xrec.bulk.toy_run import Toy, rows_of
from tests.xrec.table.conftest import Place
from xrec.bulk.state import read_state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NUM_BLOWS = 12


def test_run_in_chaos_has_each_row_once_at_every_version(place: Place, tmp_path: Path) -> None:
    toy = planned(place, tmp_path)
    with faulty(place) as faulty_place:
        strike(faulty_place, tmp_path, [])
        _, state = read_state(toy.run.table, toy.run.table.newest_version())
        assert state is not None
        assert state.failed == {"odd": 40, "task_error": 40}
        toy.heal()
        strike(faulty_place, tmp_path, ["odd", "task_error"])
    assert rows_of(toy.snapshot(), "ok") == toy.rows
    assert len(toy.rows) == 40 * len(ITEMS)
    check_versions(toy)


@contextmanager
def faulty(place: Place) -> Iterator[Place]:
    """The same place; an object store is reached by a proxy that fails one request of twenty."""
    if place.storage.endpoint_url is None:
        yield place
        return
    with faulty_proxy(place.storage.endpoint_url, Faults(share=0.05)) as endpoint_url:
        yield Place(place.uri, place.storage.model_copy(update={"endpoint_url": endpoint_url}))


def strike(place: Place, folder: Path, reasons: list[str]) -> None:
    """Run two drivers at a time until the run is done; each blow kills one or stops it a while."""
    draw = random.Random(len(reasons))
    names = iter(range(1000))

    def start() -> "subprocess.Popen[bytes]":
        return start_driver(place, folder, f"driver-{len(reasons)}-{next(names)}", *reasons)

    drivers = [start() for _ in range(4)]
    stopped: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(NUM_BLOWS):
            time.sleep(1 + draw.random() * 2)
            for driver in stopped:
                driver.send_signal(signal.SIGCONT)
            stopped.clear()
            alive = [driver for driver in drivers if driver.poll() is None]
            if alive and draw.random() < 0.5:
                victim = draw.choice(alive)
                victim.kill()
                victim.wait()
            elif alive:
                stopped.append(draw.choice(alive))
                stopped[0].send_signal(signal.SIGSTOP)
            if not any(driver.returncode == 0 for driver in drivers):
                drivers += [start() for _ in range(max(0, 2 - len(alive)))]
        for driver in stopped:
            driver.send_signal(signal.SIGCONT)
        drivers.append(start())
        assert all(driver.wait(300) in (0, -signal.SIGKILL) for driver in drivers), _logs(folder)
    finally:
        for driver in drivers:
            driver.kill()


def check_versions(toy: Toy) -> None:
    """See that no version has a row twice, and that each has as many as its totals say."""
    num_rows = []
    versions = [version for version, _ in toy.run.table.history()]
    for version in versions[:: max(1, len(versions) // 60)]:
        rows = rows_of(toy.snapshot(version))
        assert len(set(rows)) == len(rows), version
        num_rows.append(len(rows))
        _, state = read_state(toy.run.table, version)
        assert len(rows) == (0 if state is None else state.num_rows)
    assert num_rows == sorted(num_rows)


def _logs(folder: Path) -> str:
    return "\n".join(path.read_text()[-1500:] for path in sorted(folder.glob("*.log")))
