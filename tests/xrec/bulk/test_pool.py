"""Chunks in processes on Ray: results as they finish, errors, deaths, and a used-up budget."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.errors import raises
from tests.xrec.bulk.toy_run import Toy, ToyTask, die, rows_of
from xrec.bulk import Outcome, Progress, Survey
from xrec.bulk.run import Clock, now
from xrec.errors import BudgetError, DataError
from xrec.processes import RayPool

pytestmark = pytest.mark.usefixtures("ray_cluster")
MESSAGE = "the row is refused\n  by its task"


class RefusingTask(ToyTask):
    def do(self, rows: Any) -> Outcome:
        if "u-3" in rows["user"].to_pylist():
            raise DataError(MESSAGE)
        return super().do(rows)


class WaitingTask(ToyTask):
    """A task that does the row of user `u-0` once the file `others_are_done` exists."""

    def do(self, rows: Any) -> Outcome:
        while "u-0" in rows["user"].to_pylist():
            if Path(self.healed).with_name("others_are_done").exists():
                break
            time.sleep(0.01)
        return super().do(rows)


def on_ray(toy: Toy, pool: RayPool, task: Any = None, **options: Any) -> Progress:
    return toy.drive(pool, task or toy.make_task(kill=die), **options)


def test_pool_raises_a_processs_error_and_then_reports_each_chunk_as_it_finishes(here):
    toy = here("a", num_users=8, rows_per_chunk=1)
    with pytest.raises(DataError) as caught:
        on_ray(toy, RayPool(1), toy.make_task(RefusingTask))
    assert str(caught.value) == MESSAGE
    num_done = Survey(toy.run).summary.num_rows
    assert num_done < 8
    seen: list[Progress] = []

    def look(progress: Progress) -> None:
        seen.append(progress)
        if progress.num_rows == 7:
            toy.healed.with_name("others_are_done").touch()

    eager = Clock(seconds_between_looks=0.0)  # reports progress after each chunk
    task = toy.make_task(WaitingTask, kill=die, killers=[("u-3", "a")])
    progress = on_ray(toy, RayPool(2), task, on_progress=look, clock=eager)
    assert (progress.num_ok, progress.failed, progress.num_deaths) == (7, {"task_error": 1}, 2)
    num_rows = [each.num_rows for each in seen]
    assert num_rows == sorted(num_rows)
    assert seen[num_rows.index(num_done + 1)].rows_per_second(now()) is None
    assert progress.started_at < progress.working_since
    assert toy.publish() is not None
    assert rows_of(toy.published()) == toy.rows


@pytest.mark.slow
def test_pool_starts_no_chunk_once_its_budget_is_used_up(here):
    toy = here("a b", num_users=40, rows_per_chunk=2)
    task = toy.make_task(seconds=0.5)
    with raises(BudgetError, "budget_used_up", "enough"):
        on_ray(toy, RayPool(1), task, spent=lambda summary: "enough" if summary.num_rows else "")
    # The first chunk, which used it up, and those that started before the driver noticed.
    assert 2 <= Survey(toy.run).summary.num_rows <= 40
