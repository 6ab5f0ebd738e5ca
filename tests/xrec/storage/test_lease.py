"""Leases: who may work on a folder, and what a driver that ends leaves."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from tests.errors import raises
from xrec.errors import LeaseError
from xrec.storage import only_driver, open_location, this_process
from xrec.storage.lease import DRIVER, Lease

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
