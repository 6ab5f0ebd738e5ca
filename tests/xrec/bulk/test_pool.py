"""Chunks on Ray Data: results as they end, deaths, errors, drivers side by side."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from tests.xrec.bulk.conftest import Place, Toys
from tests.xrec.bulk.test_faults import spoil
from tests.xrec.bulk.toy_run import Toy, ToyTask, describe, die, rows_of
from xrec.bulk import Outcome, Progress, RayPool, Survey, complete, drive
from xrec.bulk import driver as driver_module
from xrec.errors import ClusterError, DataError, ModelError

pytestmark = pytest.mark.usefixtures("ray_cluster")


@dataclass(frozen=True)
class OddTask(ToyTask):
    """Some rows are slow, are refused, or kill; the item says which, for one user."""

    user: str = "u-3"

    def do(self, rows: Any) -> Outcome:
        """See ChunkTask."""
        items = {row["item"] for row in rows.to_pylist() if row["user"] == self.user}
        if "refused" in items:
            raise DataError("the row is refused\n  by its task")
        if "deadly" in items:
            die()
        time.sleep(3.0 if "slow" in items else 0.0)
        return super().do(rows)


def drive_on_ray(toy: Toy, pool: RayPool, make_task: Any = None, **options: Any) -> Progress:
    """Drive with an `OddTask`."""
    return drive(toy.run, pool, make_task or partial(OddTask, str(toy.healed), die), **options)


def make_no_task(reason: str) -> ToyTask:
    """Fail to load."""
    if reason == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ModelError("there is no model")


def test_pool_gives_each_result_when_it_is_done_and_not_in_order(
    toys: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "_SECONDS_BETWEEN_LOOKS", 0.0)
    toy = toys("slow b", num_users=8, rows_per_chunk=2)
    seen: list[Progress] = []
    progress = drive_on_ray(toy, RayPool(2), on_progress=seen.append)
    assert progress.num_ok == 16
    at = [each.num_rows for each in seen]
    assert at[0] == 2  # a chunk
    assert at == sorted(at)
    results = toy.run.passes()[0].results.location
    times = [(results / name).modified_at() for name in sorted(results.sizes())]
    assert times != sorted(times)
    assert progress.started_at < progress.working_since


def test_pool_row_that_kills_is_found_with_few_deaths_and_every_other_row_is_done_once(
    place: Place, toys: Toys
) -> None:
    toy = toys("deadly odd-1 bad-2 b", num_users=10)
    progress = drive_on_ray(toy, RayPool(2), chunks_at_once=2)
    assert progress.failed == {"odd": 10, "task_error": 11}
    assert 4 <= progress.num_deaths <= 8
    assert toy.publish() is not None
    assert rows_of(toy.published()) == toy.rows
    rows = toy.published().dataset(status="failed").to_table().to_pylist()
    (killer,) = [row for row in rows if row["item"] == "deadly"]
    assert (killer["user"], killer["hint"]) == ("u-3", "a hint")
    assert killer["message"] == "2 processes died while they worked on this row alone"


@pytest.mark.parametrize("what", ["work", "start"])
def test_pool_raises_the_error_of_a_process_and_the_next_one_goes_on(toys: Toys, what: str) -> None:
    toy = toys("refused", num_users=6, rows_per_chunk=1)
    if what == "work":
        with pytest.raises(DataError, match=r"^the row is refused\n  by its task$"):
            drive_on_ray(toy, RayPool(2))
    else:
        with pytest.raises(ModelError, match=r"^there is no model$"):
            drive_on_ray(toy, RayPool(2), partial(make_no_task, "error"))
    progress = drive_on_ray(toy, RayPool(1), partial(ToyTask, str(toy.healed), die))
    assert progress.num_ok == 6


def test_pool_of_processes_that_die_while_they_load_ends_the_run(toys: Toys) -> None:
    toy = toys("a", num_users=4, rows_per_chunk=1)
    with pytest.raises(ClusterError, match="3 processes in a row ended before they were ready"):
        drive_on_ray(toy, RayPool(1), partial(make_no_task, "kill"))
    assert Survey(toy.run).summary.num_rows == 0


def test_pool_with_room_for_fewer_processes_than_it_may_have_does_all(toys: Toys) -> None:
    toy = toys("a", num_users=6, rows_per_chunk=1)
    assert drive_on_ray(toy, RayPool(2, min_actors=1, cpus=3)).num_ok == 6


def test_pool_grows_while_all_are_busy(toys: Toys) -> None:
    toy = toys("a", num_users=16, rows_per_chunk=1)
    task = partial(PidTask, str(toy.healed), die, seconds=0.7)
    drive_on_ray(toy, RayPool(3, min_actors=1), task)
    toy.publish()
    texts = toy.published().dataset().to_table()["text"].to_pylist()
    assert 2 <= len(set(texts)) <= 3


class PidTask(ToyTask):
    """Writes its process's number as text."""

    def do(self, rows: Any) -> Outcome:
        """See ChunkTask."""
        outcome = super().do(rows)
        pids = [str(os.getpid())] * len(outcome.ok)
        return Outcome(outcome.ok.set_column(2, "text", [pids]), outcome.failed)


def test_pools_of_two_drivers_side_by_side_do_each_row_once(place: Place, toys: Toys) -> None:
    toy = toys("a odd-1", num_users=20, rows_per_chunk=4)

    def go(_: int) -> Any:
        task = partial(OddTask, str(toy.healed), die, seconds=0.1)
        return complete(
            toy.run, RayPool(1), task, "explanations", describe, alongside=True, retry=["odd"]
        )

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(go, range(2))
    assert one == other
    assert one.row_counts == {"explanations": 20, "failed": 20}
    assert rows_of(toy.published()) == toy.rows


def test_pool_of_a_driver_that_is_interrupted_stops_and_the_next_one_goes_on(
    toys: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(driver_module, "_SECONDS_BETWEEN_LOOKS", 0.0)
    toy = toys("a", num_users=20, rows_per_chunk=1)
    task = partial(OddTask, str(toy.healed), die, seconds=0.3)
    with pytest.raises(KeyboardInterrupt):
        drive_on_ray(toy, RayPool(2), task, on_progress=interrupt)
    num_done = Survey(toy.run).summary.num_rows
    assert 0 < num_done < 20
    progress = drive_on_ray(toy, RayPool(2))
    assert (progress.num_ok, progress.num_rows_before >= num_done) == (20, True)


def test_parts_on_ray_have_each_row_once_and_a_result_that_cannot_be_read_is_done_again(
    place: Place, toys: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xrec.bulk.parts.PART_BYTES", 10_000)
    toy = toys("a odd-1", num_users=20, rows_per_chunk=4)
    toy.drive()
    spoil(toy, 5, "{:07d}.parquet", footer=False)
    manifest = toy.complete()
    assert manifest.row_counts == {"explanations": 20, "failed": 20}
    assert rows_of(toy.published()) == toy.rows
    assert toy.published().log.files(0).num_rows > 1
