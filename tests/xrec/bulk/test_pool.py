"""Chunks on Ray Data: results as they end, deaths, errors, drivers side by side."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.errors import raises
from tests.xrec.bulk.toy_run import EAGER, Toy, ToyTask, die, rows_of
from xrec.bulk import Outcome, Progress, Survey
from xrec.bulk.run import now
from xrec.errors import BudgetError, ClusterError, DataError, ModelError
from xrec.processes import RayPool

pytestmark = pytest.mark.usefixtures("ray_cluster")


class OddTask(ToyTask):
    """Refuses a user's row `refused`, and does `last` once the file `others_are_done` exists."""

    def do(self, rows: Any) -> Outcome:
        items = {row["item"] for row in rows.to_pylist() if row["user"] == "u-3"}
        if "refused" in items:
            raise DataError("the row is refused\n  by its task")
        while "last" in items and not Path(self.healed).with_name("others_are_done").exists():
            time.sleep(0.01)
        return super().do(rows)


def on_ray(toy: Toy, pool: RayPool, task: Any = None, **options: Any) -> Progress:
    return toy.drive(pool, task or toy.make_task(kill=die), **options)


def make_no_task(error: Exception | None) -> ToyTask:
    raise error or die()


def test_pool_gives_each_result_when_it_is_done_and_not_in_order(here):
    toy = here("last b", num_users=8, rows_per_chunk=2)
    seen: list[Progress] = []

    def look(progress: Progress) -> None:
        seen.append(progress)
        if progress.num_rows == 14:
            toy.healed.with_name("others_are_done").touch()

    progress = on_ray(toy, RayPool(2), toy.make_task(OddTask), on_progress=look, clock=EAGER)
    assert progress.num_ok == 16
    at = [each.num_rows for each in seen]
    assert seen[at.index(2)].rows_per_second(now()) is None  # a chunk in no time is no rate
    assert at == sorted(at)
    results = toy.run.passes()[0].results.location
    times = [results.fs.modified((results / name).path) for name in sorted(results.sizes())]
    assert times != sorted(times)
    assert progress.started_at < progress.working_since


@pytest.mark.slow
def test_pool_begins_no_chunk_once_its_budget_is_used_up(here):
    toy = here("a b", num_users=40, rows_per_chunk=2)
    task = toy.make_task(seconds=0.5)
    with raises(BudgetError, "budget_used_up", "enough"):
        on_ray(toy, RayPool(1), task, spent=lambda summary: "enough" if summary.num_rows else "")
    # The chunk of two rows that used it up, and those that were begun before the driver saw it.
    assert 2 <= Survey(toy.run).summary.num_rows <= 40


@pytest.mark.slow
def test_pool_row_that_kills_is_found_with_few_deaths_and_the_others_done_once(here):
    here.patch.setattr("xrec.bulk.publisher.PART_BYTES", 3_000)  # the files are made on Ray, too
    toy = here("deadly odd-1 bad-2 b", num_users=5, rows_per_chunk=2)
    task = toy.make_task(kill=die, killers=[("u-3", "deadly")])
    progress = on_ray(toy, RayPool(2), task, chunks_at_once=2)
    assert progress.failed == {"odd": 5, "task_error": 6}
    assert 3 <= progress.num_deaths <= 6
    assert toy.publish() is not None
    assert toy.published().log.files(0).num_rows > 1
    assert rows_of(toy.published()) == toy.rows
    rows = toy.published().dataset(status="failed").to_table().to_pylist()
    (killer,) = [row for row in rows if row["item"] == "deadly"]
    assert (killer["user"], killer["hint"]) == ("u-3", "a hint")
    assert killer["message"] == "2 processes died while they worked on this row alone"


def test_pool_raises_the_error_of_a_process_and_the_next_one_goes_on(here):
    toy = here("refused", num_users=20, rows_per_chunk=1)
    with pytest.raises(DataError, match=r"^the row is refused\n  by its task$"):
        on_ray(toy, RayPool(1), toy.make_task(OddTask))
    num_done = Survey(toy.run).summary.num_rows
    assert num_done < 20
    progress = on_ray(toy, RayPool(1))
    assert (progress.num_ok, progress.num_rows_before >= num_done) == (20, True)


@pytest.mark.parametrize(
    ("error", "kind", "code", "saw"),
    [
        (ModelError("there is no model", code="gone"), ModelError, "gone", None),
        pytest.param(None, ClusterError, "processes_not_ready", 3, marks=pytest.mark.slow),
    ],
)
def test_pool_whose_processes_cannot_begin_or_die_before_ends(here, error, kind, code, saw):
    toy = here("a", num_users=2)
    with raises(kind, code, saw=saw):
        on_ray(toy, RayPool(1), partial(make_no_task, error))
    assert Survey(toy.run).summary.num_rows == 0
