"""A run has one driver: the lease is refused, renewed, released and taken over, on both stores."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import pytest
from xrec.backfill.lease import Lease

from xrec.errors import LeaseError
from xrec.storage import Location, open_location

LONG = 600.0


def _entries(output: Location) -> list[dict[str, object]]:
    return [
        json.loads((output / "lease" / name).read_bytes()) for name in (output / "lease").files()
    ]


def _try(output: Location) -> Lease | str:
    try:
        return Lease.acquire(output, LONG)
    except LeaseError as error:
        return str(error)


def _try_in_process(folder: str, turn: int) -> bool:
    return isinstance(_try(open_location(f"{folder}/{turn}")), Lease)


def test_lease_second_driver_is_refused_and_told_who_and_until_when(output: Location) -> None:
    Lease.acquire(output, LONG)
    (entry,) = _entries(output)
    until = datetime.fromisoformat(str(entry["expires_at"]))
    with pytest.raises(
        LeaseError, match=rf"process {entry['pid']} on {entry['host']} runs this backfill"
    ) as raised:
        Lease.acquire(output, LONG)
    assert f"until {until:%Y-%m-%d %H:%M:%S} UTC" in str(raised.value)
    assert timedelta(seconds=LONG - 60) < until - datetime.now(UTC) <= timedelta(seconds=LONG)
    assert _entries(output) == [entry]


def test_lease_released_is_free_at_once(output: Location) -> None:
    Lease.acquire(output, LONG).release()
    Lease.acquire(output, LONG)


def test_lease_expired_is_taken_over_and_its_holder_told_when_it_wakes(output: Location) -> None:
    asleep = Lease.acquire(output, term_seconds=0)
    taker = Lease.acquire(output, LONG)
    with pytest.raises(LeaseError, match="runs this backfill"):
        asleep.renew()
    with pytest.raises(LeaseError, match="runs this backfill"):
        asleep.check()
    taker.renew()
    taker.check()


def test_lease_expired_may_be_renewed_by_its_holder_if_nobody_took_it(output: Location) -> None:
    late = Lease.acquire(output, term_seconds=0)
    late.renew()
    late.check()


@pytest.mark.parametrize("turn", range(5))
def test_lease_drivers_that_start_at_the_same_moment_have_one_winner(
    output: Location, turn: int
) -> None:
    if turn % 2:
        Lease.acquire(output, term_seconds=0)  # odd turns: a dead driver's is taken over
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _: _try(output), range(6)))
    assert sum(isinstance(result, Lease) for result in results) == 1
    assert all("runs this backfill" in result for result in results if isinstance(result, str))


def test_lease_processes_that_start_at_the_same_moment_have_one_winner_each_time(
    tmp_path: Path,
) -> None:
    with get_context("fork").Pool(2) as pool:
        for turn in range(20):
            assert sum(pool.starmap(_try_in_process, [(str(tmp_path), turn)] * 2)) == 1


def test_lease_a_number_that_was_deleted_meanwhile_does_not_win(
    output: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver reads the expired entry 1, and creates entry 2 after the holder deleted entry 2."""
    from xrec.backfill import lease as module

    Lease.acquire(output, term_seconds=0)
    stale = module._newest(output)
    holder = Lease.acquire(output, LONG)
    holder.renew()
    fresh = module._newest
    answers = iter([stale])
    monkeypatch.setattr(module, "_newest", lambda location: next(answers, None) or fresh(location))
    with pytest.raises(LeaseError, match="runs this backfill"):
        Lease.acquire(output, LONG)
    holder.renew()
    assert len(_entries(output)) == 1


def test_lease_answer_that_was_lost_is_no_loss(
    output: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store wrote the entry, and the client sent the request again because no answer came."""
    create = type(output).create_bytes
    told: list[bool] = []

    def created_and_denied(location: Location, data: bytes) -> bool:
        told.append(create(location, data))
        return False

    monkeypatch.setattr(type(output), "create_bytes", created_and_denied)
    lease = Lease.acquire(output, LONG)
    lease.renew()
    lease.check()
    assert told == [True, True]


def test_lease_thread_renews_while_the_driver_works_and_releases_at_the_end(
    output: Location,
) -> None:
    with Lease.acquire(output, term_seconds=1.5).renewed() as lease:
        (first,) = _entries(output)
        deadline = time.monotonic() + 30
        while _entries(output)[-1:] in ([], [first]) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert datetime.fromisoformat(
            str(_entries(output)[-1]["expires_at"])
        ) > datetime.fromisoformat(str(first["expires_at"]))
        lease.check()
    Lease.acquire(output, LONG)
