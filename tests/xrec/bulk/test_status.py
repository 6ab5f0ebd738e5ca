"""What a reader learns of a run, from a few small files."""

import pytest

from tests.world.here import PoolHere
from tests.world.store import requests_of
from tests.xrec.bulk.test_rules_drive import stopped_after
from tests.xrec.bulk.test_rules_plan import OTHER
from xrec.bulk import Status, read_status, rollback
from xrec.bulk.beat import Clock
from xrec.errors import ArtifactNotFoundError


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
    toys(num_users=24, rows_per_chunk=2).drive(clock=Clock(seconds_between_signs=0.01))
    requests = requests_of(toys.patch)
    assert read_status(toys.uri, toys.storage).num_left == 0
    assert len(requests) < 12


def test_read_status_without_a_bucket_is_an_error(s3):
    with pytest.raises(ArtifactNotFoundError, match="no run was planned there"):
        read_status("s3://no-such-bucket-at-all/run", s3.storage)
