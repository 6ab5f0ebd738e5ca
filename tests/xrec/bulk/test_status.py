"""What a reader learns of a run, from a few small files."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.object_store import requests_of
from tests.xrec.bulk.test_rules_drive import stopped_after
from tests.xrec.bulk.test_rules_plan import OTHER
from tests.xrec.bulk.toy_run import IDENTITY, PoolHere
from xrec.bulk import Progress, Status, driver, read_status, rollback
from xrec.bulk.runs.plan import PlanSize
from xrec.bulk.runs.run import RunRecord
from xrec.errors import ArtifactNotFoundError, StorageUnreachableError

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
PLANNED = RunRecord(
    run="run",
    identity=IDENTITY,
    nonce="nonce",
    rows_fingerprint="",
    listing={},
    rejected={},
    num_buckets=16,
    size=PlanSize(num_rows=10_000, num_chunks=100, parts=()),
)


def status_of(*, seconds: float = 0, **progress: Any) -> Status:
    """Of a run of 10,000 rows whose driver began at noon, and told so much at `seconds`."""
    at = NOON + timedelta(seconds=seconds)
    said = Progress(**{"started_at": NOON, "written_at": at, "holder": "host-3", **progress})
    return Status("memory", PLANNED, said, None, False)


def test_read_status_before_during_and_after_a_run(toys):
    with pytest.raises(ArtifactNotFoundError, match="no run was planned there"):
        read_status(toys.uri, toys.storage)
    toy = toys("a odd-1")

    def status() -> Status:
        return read_status(toys.uri, toys.storage)

    planned, phases = status(), []
    assert (planned.phase(), planned.num_left, planned.progress) == ("planned", 24, None)
    toy.drive(PoolHere(before=lambda chunk: phases.append(status().phase())))
    assert set(phases) == {"running"}
    done = status()
    assert (done.phase(), done.num_left, done.manifest) == ("done", 0, None)
    assert (done.progress.num_ok, done.progress.failed) == (12, {"odd": 12})
    manifest = toy.publish()
    assert (status().phase(), status().manifest) == ("published", manifest)
    with pytest.raises(KeyboardInterrupt):
        toy.drive(stopped_after(1), retry=["odd"])
    assert (status().phase(), status().num_left) == ("stopped", 0)
    toy.drive()
    assert status().phase() == "done"  # the retry is not published
    toy.publish()
    assert status().phase() == "published"
    other = toys("a", identity=OTHER)
    assert (status().phase(), status().record) == ("planned", other.run.record)
    other.complete()
    assert status().phase() == "published"
    rollback(toys.uri, 0, toys.storage)
    assert (status().phase(), status().is_published) == ("replaced", False)


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_read_status_takes_few_requests_also_of_many_results(toys):
    toys.patch.setattr(driver, "_SECONDS_BETWEEN_SIGNS", 0.0)
    toys(num_users=24, rows_per_chunk=2).drive()
    requests = requests_of(toys.patch)
    assert read_status(toys.uri, toys.storage).num_left == 0
    assert len(requests) < 12


def test_rate_is_of_rows_that_were_not_carried():
    costs = {"seconds": 60.0, "tokens": 3_000.0, "carried": 400.0}
    rate = status_of(num_ok=950, failed={"odd": 50}, costs=costs).rate
    assert rate.costs_of(9_000) == {"seconds": 900.0, "tokens": 45_000.0}
    assert replace(status_of(), progress=None).rate is None
    assert status_of().rate is None
    assert status_of(num_ok=5, costs={"seconds": 0.1, "carried": 5.0}).rate is None


def test_read_status_without_a_bucket_is_an_error_and_without_a_store(s3):
    with pytest.raises(ArtifactNotFoundError, match="no run was planned there"):
        read_status("s3://no-such-bucket-at-all/run", s3.storage)
    nowhere = {"endpoint_url": "http://127.0.0.1:9", "max_attempts": 1}
    with pytest.raises(StorageUnreachableError, match=r"127\.0\.0\.1:9"):
        read_status(f"s3://{uuid.uuid4().hex}/run", s3.storage.model_copy(update=nowhere))
