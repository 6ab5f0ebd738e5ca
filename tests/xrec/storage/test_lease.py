"""Leases: who may work on a folder, when a process counts as dead, and what a driver leaves."""

import signal
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from tests.errors import raises
from xrec.errors import LeaseError
from xrec.storage import Lease, at_work, only_driver, open_location, this_process, wait_for_jobs
from xrec.storage.lease import AT_WORK, DRIVER, has_died

LATER = datetime.now(UTC) + timedelta(hours=1)
SHOW = "from xrec.storage.lease import this_process; print(this_process(), flush=True); input()"


@pytest.fixture
def folder(tmp_path):
    return open_location(str(tmp_path / "run"))


@pytest.mark.parametrize(
    "holder", ["the other driver", "a-host, process 1", "a-host, process 999999999 (0a1b2c3d-77)"]
)
def test_holder_of_unknown_state_keeps_others_out_until_its_lease_ends(folder, holder):
    lease = Lease(holder=holder, expires_at=LATER)
    assert lease.is_alive()
    lease.refuse_others(folder, "lease_held", but=holder)
    for other in ("b", ""):
        with raises(LeaseError, "lease_held", key=str(folder), saw=holder):
            lease.refuse_others(folder, "lease_held", but=other)
    assert not lease.is_alive(LATER)
    for ended in (None, LATER - timedelta(hours=2)):
        Lease(holder=holder, expires_at=ended).refuse_others(folder, "lease_held", but="b")


def test_driver_holds_the_lease_until_its_term_ends_or_it_fails(folder):
    with only_driver(folder):
        assert Lease.read(folder / DRIVER).holder == this_process()
    assert Lease.read(folder / DRIVER).is_alive()  # so that its result can be published
    with suppress(ZeroDivisionError), only_driver(folder):
        raise ZeroDivisionError
    assert not (folder / DRIVER).is_file()


def test_jobs_that_run_are_waited_for_and_those_that_begin_later_are_not(folder):
    (folder / "manifest.json").write_bytes(b"")
    lines, first, later = list[str](), at_work(folder), at_work(folder)
    dead = Lease(holder="a", expires_at=LATER - timedelta(hours=2))
    (folder / AT_WORK / "dead.json").write_bytes(dead.to_bytes())
    first.__enter__()

    def wait(seconds: float) -> None:
        first.__exit__(None, None, None)
        later.__enter__()

    wait_for_jobs(folder, lines.append, wait)
    assert len(lines) == len((folder / AT_WORK).sizes()) == 1
    assert this_process() in lines[0]
    later.__exit__(None, None, None)
    assert (folder / AT_WORK).sizes() == {}


def test_killed_process_counts_as_dead_even_before_its_parent_waits_for_it():
    command, pipe = [sys.executable, "-c", SHOW], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        lease = Lease(holder=process.stdout.readline().strip(), expires_at=LATER)
        is_alive = lease.is_alive()
        process.send_signal(signal.SIGKILL)
        give_up_at = datetime.now(UTC) + timedelta(seconds=30)
        while lease.is_alive() and datetime.now(UTC) < give_up_at:
            pass
        assert (is_alive, lease.is_alive()) == (True, False)
    assert has_died(lease.holder)


def test_process_whose_id_was_reused_counts_as_dead():
    host, _, unique = this_process().rpartition("-")
    assert not has_died(f"{host}-{unique}")
    assert has_died(f"{host}-1)")
