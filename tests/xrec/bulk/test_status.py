"""What a reader learns of a run, from its newest commits alone."""

from datetime import timedelta
from pathlib import Path

import pytest

from tests.xrec.bulk.toy_run import toy_run
from tests.xrec.table.conftest import Place
from xrec.bulk import read_status
from xrec.bulk.work import Work
from xrec.errors import ArtifactNotFoundError


def test_read_status_before_during_and_after_a_run(place: Place, tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFoundError, match="no run was planned there"):
        read_status(place.uri, place.storage)
    toy = toy_run(place, tmp_path, ["a", "odd-1"])
    planned = read_status(place.uri, place.storage)
    assert (planned.num_rows, planned.num_left, planned.state) == (24, 24, None)
    assert (planned.is_running(), planned.time_left()) == (False, None)
    during = []
    toy.drive(
        toy.pool(before=lambda work: during.append(read_status(place.uri, place.storage))),
        holder="host-3",
    )
    assert during[0].is_running()
    assert during[0].holder == "host-3"
    toy.run.table.take_over("someone")  # states nothing
    after = read_status(place.uri, place.storage)
    assert after.state is not None
    assert (after.state.state, after.num_left, after.is_running()) == ("finished", 0, False)
    assert (after.state.num_ok, after.state.failed) == (12, {"odd": 12})


def test_time_left_is_at_the_rate_of_this_driver(disk: Place, tmp_path: Path) -> None:
    toy = toy_run(disk, tmp_path)

    def interrupt(work: Work) -> None:
        if len(pool.done) == 3:
            raise KeyboardInterrupt

    for _ in range(2):
        pool = toy.pool(before=interrupt)
        with pytest.raises(KeyboardInterrupt):
            toy.drive(pool)
    status = read_status(disk.uri)
    assert status.state is not None
    assert status.state.num_rows_before > 0
    num_done = status.state.num_rows - status.state.num_rows_before
    took = status.committed_at - status.state.started_at
    assert took > timedelta(0)
    assert status.time_left() == took * (status.num_left / num_done)
