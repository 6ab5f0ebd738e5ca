"""Works go through real actors: results come as they end, lost actors are told and replaced."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

from tests.xrec.bulk.toy_run import Toy, ToyTask, die, rows_of, toy_run
from tests.xrec.table.conftest import Place
from xrec.bulk import ActorPool, Outcome, drive
from xrec.bulk.plan import PlanFiles
from xrec.bulk.work import Died, Done, Work
from xrec.errors import DataError, ModelError

pytestmark = pytest.mark.usefixtures("ray_cluster")


class SleepyTask(ToyTask):
    """Takes a second for the user `u-0`, and refuses the item `refused`."""

    def do(self, rows: Any) -> Outcome:
        """See ChunkTask."""
        if "refused" in rows["item"].to_pylist():
            raise DataError("the row is refused")
        time.sleep(1.0 if "u-0" in rows["user"].to_pylist() else 0.0)
        return super().do(rows)


def make_no_task() -> ToyTask:
    raise ModelError("there is no model")


@contextmanager
def pool_of(
    toy: Toy, make_task: Any, num_actors: int, cpus_per_actor: int = 1
) -> Iterator[ActorPool]:
    pool = ActorPool(
        toy.run.worker_settings(make_task), num_actors=num_actors, cpus_per_actor=cpus_per_actor
    )
    try:
        yield pool
    finally:
        pool.close()


def works_of_all(toy: Toy) -> list[Work]:
    units = toy.run.units_left(toy.snapshot())
    return [Work(unit, 0, unit.num_rows) for unit in units]


def all_events(pool: ActorPool, works: list[Work]) -> list[Done | Died]:
    """Send all works and return what became of them, in the order of arrival."""
    pool.start(len(works))
    left, events = list(works), []
    while len(events) < len(works):
        while left and pool.can_take(left[0].is_alone):
            pool.submit(left.pop(0))
        events += pool.wait(10)
    return events


def test_pool_gives_each_result_when_it_is_done_and_not_in_order(
    disk: Place, tmp_path: Path
) -> None:
    toy = toy_run(disk, tmp_path, ["a"], num_users=8, rows_per_chunk=1)
    plan = PlanFiles(disk.location)
    slow, others = None, []
    for work in works_of_all(toy):
        if "u-0" in plan.rows(work.unit.file, work.unit.row_group or 0)["user"].to_pylist():
            slow = work
        else:
            others.append(work)
    assert slow is not None
    with pool_of(toy, partial(SleepyTask, str(toy.healed), die), 2) as pool:
        events = all_events(pool, [slow, *others])
    assert all(isinstance(event, Done) for event in events)
    arrived = [event.work for event in events]
    assert set(arrived) == {slow, *others}
    assert arrived.index(slow) > len(others) // 2  # those after it did not wait for it


def test_pool_tells_with_which_rows_an_actor_was_lost_and_replaces_it(
    disk: Place, tmp_path: Path
) -> None:
    toy = toy_run(disk, tmp_path, ["a", "kill-1"], num_users=4, rows_per_chunk=1)
    works = works_of_all(toy)
    with pool_of(toy, partial(ToyTask, str(toy.healed), die), 2) as pool:
        first = all_events(pool, works)
        died = [event for event in first if isinstance(event, Died)]
        assert died
        assert not any(event.is_innocent for event in died)
        toy.heal()
        again = all_events(pool, [event.work for event in died])
    assert all(isinstance(event, Done) for event in again)


@pytest.mark.parametrize("what", ["work", "start"])
def test_pool_raises_the_actors_own_error_and_frees_its_cpus(
    disk: Place, tmp_path: Path, what: str
) -> None:
    toy = toy_run(disk, tmp_path, ["refused"], num_users=2, rows_per_chunk=1)
    task = partial(SleepyTask, str(toy.healed), die) if what == "work" else make_no_task
    message = "^the row is refused$" if what == "work" else "^there is no model$"
    with (
        pytest.raises(DataError if what == "work" else ModelError, match=message),
        pool_of(toy, task, 2) as pool,
    ):
        all_events(pool, works_of_all(toy))
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU", 0) < 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == 4


def test_pool_with_fewer_free_cpus_than_actors_does_all_works(disk: Place, tmp_path: Path) -> None:
    toy = toy_run(disk, tmp_path, ["a"], num_users=6, rows_per_chunk=1)
    works = works_of_all(toy)
    with pool_of(toy, partial(ToyTask, str(toy.healed), die), 2, cpus_per_actor=3) as pool:
        events = all_events(pool, works)
    assert {event.work for event in events} == set(works)


def test_pool_gives_a_work_that_is_alone_to_an_idle_actor_and_nothing_beside(
    disk: Place, tmp_path: Path
) -> None:
    toy = toy_run(disk, tmp_path, ["a"], num_users=6, rows_per_chunk=1)
    first, second, third, *_ = works_of_all(toy)
    with pool_of(toy, partial(ToyTask, str(toy.healed), die, seconds=0.2), 1) as pool:
        pool.start(1)
        while not pool.can_take(is_alone=True):
            assert pool.wait(10) == []
        pool.submit(first)
        assert not pool.can_take(is_alone=True)
        assert not pool.can_take(is_alone=False)  # the actor is to become idle
        assert [event.work for event in pool.wait(10)] == [first]
        pool.submit(Work(second.unit, 0, second.stop, is_alone=True))
        assert not pool.can_take(is_alone=False)
        assert len(pool.wait(10)) == 1
        pool.submit(third)
        assert pool.can_take(is_alone=False)  # it reads one more meanwhile
        assert [event.work for event in pool.wait(10)] == [third]


def test_drive_on_actors_has_each_row_once_though_rows_kill(disk: Place, tmp_path: Path) -> None:
    toy = toy_run(disk, tmp_path, ["a", "odd-1", "bad-2", "b"], num_users=10, rows_per_chunk=2)
    settings = toy.run.worker_settings(partial(KillsOne, str(toy.healed), die))
    state = drive(toy.run, ActorPool(settings, num_actors=2, cpus_per_actor=1), holder="test")
    assert rows_of(toy.snapshot()) == toy.rows
    assert state.failed == {"odd": 10, "task_error": 11}
    assert (state.num_ok, state.state) == (19, "finished")
    assert state.num_deaths >= 4
    failed = toy.snapshot().dataset([("status", "=", "failed")]).to_table().to_pylist()
    (killer,) = [row for row in failed if row["item"] == "a"]
    assert (killer["user"], killer["hint"]) == ("u-3", "a hint")
    assert killer["message"] == "2 processes died while they worked on this row alone"


class KillsOne(ToyTask):
    """A toy task that one row kills."""

    def do(self, rows: Any) -> Outcome:
        """See ChunkTask."""
        if {"user": "u-3", "item": "a"} in rows.to_pylist():
            die()
        return super().do(rows)


def make_and_note(healed: str, noted: str) -> ToyTask:
    """A task; the file `noted` has the time at which it was made."""
    task = ToyTask(healed, die)
    Path(noted).write_text(datetime.now(UTC).isoformat())
    return task


def test_driver_of_a_pool_works_since_an_actor_has_made_its_task(
    disk: Place, tmp_path: Path
) -> None:
    toy = toy_run(disk, tmp_path, ["a"], num_users=4)
    noted = tmp_path / "made"
    with pool_of(toy, partial(make_and_note, str(toy.healed), str(noted)), 1) as pool:
        state = drive(toy.run, pool, holder="test")
    assert state.working_since is not None
    assert state.started_at < datetime.fromisoformat(noted.read_text()) <= state.working_since
