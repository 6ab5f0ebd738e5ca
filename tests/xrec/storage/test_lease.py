"""Leases: who may work on a folder, and what a driver that ends leaves."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from tests.errors import raises
from xrec.errors import LeaseError
from xrec.storage import at_work, only_driver, open_location, this_process, wait_for_jobs
from xrec.storage.lease import AT_WORK, DRIVER, Lease

LATER = datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture
def folder(tmp_path):
    return open_location(str(tmp_path / "run"))


def test_a_living_holder_refuses_all_but_itself(folder):
    lease = Lease(holder="a", expires_at=LATER)
    lease.refuse_others(folder, "lease_held", but="a")
    for other in ("b", ""):
        with raises(LeaseError, "lease_held", key=str(folder), saw="a"):
            lease.refuse_others(folder, "lease_held", but=other)
    assert not lease.is_alive(LATER)
    for ended in (Lease(holder="a"), Lease(holder="a", expires_at=LATER - timedelta(hours=2))):
        ended.refuse_others(folder, "lease_held", but="b")


def test_driver_holds_the_lease_by_its_process_until_it_fails_or_its_term_ends(folder):
    with only_driver(folder):
        assert Lease.read(folder / DRIVER).holder == this_process()
    kept = Lease.read(folder / DRIVER)  # so that the result can be published
    assert kept.is_alive()
    with suppress(ZeroDivisionError), only_driver(folder):
        raise ZeroDivisionError
    assert not (folder / DRIVER).is_file()


def test_jobs_that_run_are_waited_for_and_those_that_begin_later_are_not(folder):
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
