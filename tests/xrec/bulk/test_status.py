"""What a reader learns of a run, from its newest commits alone."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.object_store import ObjectStore, requests_of
from tests.xrec.bulk.toy_run import toy_run
from tests.xrec.table.conftest import Place
from xrec.bulk import RunState, Status, ledger, measured_rate, read_status
from xrec.bulk.plan import PLAN, PlanRecord
from xrec.bulk.work import Work
from xrec.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    StorageUnreachableError,
    TableError,
)
from xrec.storage import open_location

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
PLANNED = PlanRecord.model_validate(
    {
        "layout": 1,
        "identity": {"kind": "toy", "config": {}, "inputs": {}},
        "listing": {},
        "rows_fingerprint": "",
        "num_rows": 10_000,
        "num_rejected": 0,
        "num_chunks": 100,
        "num_buckets": 128,
        "folder": "",
        "parts": [],
    }
)


@pytest.fixture
def s3_place(s3: ObjectStore, bucket: str) -> Place:
    """A place in an object store."""
    return Place(f"{bucket}/{uuid.uuid4().hex}", s3.storage)


def status_of(*, seconds: float = 0, **state: Any) -> Status:
    """Of a run of 10,000 rows whose driver began at noon, committed `seconds` after noon."""
    at = NOON + timedelta(seconds=seconds)
    return Status("memory", PLANNED, 7, "host-3", at, RunState(**{"started_at": NOON, **state}))


def test_read_status_before_during_and_after_a_run(place: Place, tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFoundError, match="no run was planned there"):
        read_status(place.uri, place.storage)
    toy = toy_run(place, tmp_path, ["a", "odd-1"])
    planned = read_status(place.uri, place.storage)
    assert (planned.plan.num_rows, planned.num_left, planned.state) == (24, 24, None)
    assert (planned.phase(), planned.is_running(), planned.seconds_left) == ("planned", False, None)
    during = []
    toy.drive(
        toy.pool(before=lambda work: during.append(read_status(place.uri, place.storage))),
        holder="host-3",
    )
    assert during[0].is_running()
    assert (during[0].phase(), during[0].holder) == ("running", "host-3")
    toy.run.table.take_over("someone")  # states nothing
    after = read_status(place.uri, place.storage)
    assert after.state is not None
    assert (after.phase(), after.num_left, after.is_running()) == ("finished", 0, False)
    assert (after.state.num_ok, after.state.failed) == (12, {"odd": 12})


def test_read_status_takes_few_requests_also_of_a_long_log(
    s3_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "COMMIT_SECONDS", 0.0)  # a commit for each chunk
    toy = toy_run(s3_place, tmp_path, num_users=48)
    toy.drive()
    version = toy.run.table.newest_version()
    assert version > 16
    requests = requests_of(monkeypatch)
    assert read_status(s3_place.uri, s3_place.storage).version == version
    assert len(requests) <= 20, requests


def test_phase_tells_a_driver_that_ended_from_one_that_is_silent() -> None:
    stopped = status_of(num_ok=10)
    assert stopped.phase(NOON) == "stopped"
    alive = status_of(num_ok=10, expires_at=NOON + timedelta(seconds=90))
    assert alive.phase(NOON + timedelta(seconds=89)) == "running"
    assert alive.phase(NOON + timedelta(seconds=90)) == "silent"
    retrying = status_of(num_ok=10_000, is_retrying=True)
    assert retrying.phase(NOON) == "stopped"


def test_rate_counts_from_the_first_actor_and_only_this_drivers_rows() -> None:
    """900 rows in 60 s after 40 s of starting, and 1,000 rows of earlier drivers."""
    status = status_of(
        seconds=100,
        num_ok=1_850,
        failed={"odd": 50},
        num_rows_before=1_000,
        working_since=NOON + timedelta(seconds=40),
    )
    assert status.rows_per_second == pytest.approx(15)
    assert status.seconds_left == pytest.approx(8_100 / 15)
    assert status.is_rate_rough  # fewer than ten chunks of 100 rows


def test_rate_is_unknown_until_this_driver_has_committed_rows() -> None:
    ready = NOON + timedelta(seconds=40)
    for status in (
        status_of(seconds=30, num_ok=1_000, num_rows_before=1_000),
        status_of(seconds=60, num_ok=1_000, num_rows_before=1_000, working_since=ready),
        status_of(seconds=40, num_ok=1_100, num_rows_before=1_000, working_since=ready),
    ):
        assert (status.rows_per_second, status.seconds_left) == (None, None)
        assert status.is_rate_rough
    enough = status_of(seconds=60, num_ok=2_000, num_rows_before=1_000, working_since=ready)
    assert not enough.is_rate_rough
    whole = status_of(seconds=60, num_ok=10_000, working_since=ready)
    assert (whole.rows_per_second, whole.seconds_left) == (pytest.approx(500), None)


def test_driver_says_when_its_first_actor_was_ready(disk: Place, tmp_path: Path) -> None:
    toy = toy_run(disk, tmp_path)
    first_work_at: list[datetime] = []

    def interrupt(work: Work) -> None:
        first_work_at.append(datetime.now(UTC))
        if len(pool.done) == 3:
            raise KeyboardInterrupt

    for _ in range(2):
        pool = toy.pool(before=interrupt)
        began_at = datetime.now(UTC)
        with pytest.raises(KeyboardInterrupt):
            toy.drive(pool)
        state = read_status(disk.uri).state
        assert state is not None
        assert state.working_since is not None
        assert began_at <= state.started_at <= state.working_since <= first_work_at[0]
        first_work_at.clear()
    assert state.num_rows > state.num_rows_before > 0


def test_measured_rate_is_of_rows_that_were_not_carried() -> None:
    status = status_of(
        num_ok=950, failed={"odd": 50}, costs={"seconds": 60.0, "tokens": 3_000.0, "carried": 400.0}
    )
    rate = measured_rate(status)
    assert rate is not None
    assert (rate.num_done, rate.num_carried, rate.carried_share) == (600, 400, 0.4)
    assert rate.costs_of(9_000) == {"seconds": 900.0, "tokens": 45_000.0}
    assert rate.costs_of(10_000, 0.4)["seconds"] == pytest.approx(600)


def test_measured_rate_of_a_run_that_has_done_nothing_is_none() -> None:
    assert measured_rate(replace(status_of(), state=None)) is None
    assert measured_rate(status_of()) is None
    assert measured_rate(status_of(num_ok=5, costs={"seconds": 0.1, "carried": 5.0})) is None


def test_read_status_of_an_older_layout_or_another_artifact_says_so(place: Place) -> None:
    for name in ("manifest.json", "plan.json", "run.json"):
        uri = f"{place.uri}/with {name}"
        (open_location(uri, place.storage) / name).write_bytes(b"{}")
        with pytest.raises(ArtifactMismatchError, match=f"holds {name}, but no _xrec/plan.json"):
            read_status(uri, place.storage)


def test_read_status_of_a_plan_or_state_of_another_xrec_says_so(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_run(disk, tmp_path)
    metadata = {"bulk": {"state": "asleep"}}
    monkeypatch.setattr(RunState, "metadata", lambda state: metadata)
    toy.drive()
    with pytest.raises(TableError, match="states the run as this xrec cannot read it"):
        read_status(disk.uri)
    (disk.location / PLAN).write_bytes(b'{"layout": 2}')
    with pytest.raises(ArtifactMismatchError, match="not a plan that this xrec reads"):
        read_status(disk.uri)


def test_read_status_without_a_bucket_is_an_error_and_without_a_store(s3_place: Place) -> None:
    with pytest.raises(ArtifactNotFoundError, match="no run was planned there"):
        read_status("s3://no-such-bucket-at-all/run", s3_place.storage)
    nowhere = s3_place.storage.model_copy(
        update={"endpoint_url": "http://127.0.0.1:9", "max_attempts": 1}
    )
    with pytest.raises(StorageUnreachableError, match=r"127\.0\.0\.1:9"):
        read_status(s3_place.uri, nowhere)
