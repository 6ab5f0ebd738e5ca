"""Marks find the rows that kill, wherever they are, and no other row is to blame."""

from collections.abc import Collection
from typing import Any

import pytest

from xrec.bulk.work.marks import Attempt, Marks


@pytest.mark.parametrize("num_rows", [1, 2, 7, 64, 300])
def test_every_row_but_those_that_kill_is_done_once(num_rows: int) -> None:
    marks = Marks(1)
    killers_of_chunks = [{0}, {num_rows - 1}, {num_rows // 2, num_rows // 3}] * 6
    for chunk, killers in enumerate(killers_of_chunks):  # more deaths than may come in a row
        done, failed, num_deaths = play(marks, chunk, num_rows, killers)
        assert sorted(done) == [row for row in range(num_rows) if row not in killers]
        assert sorted(failed) == sorted(killers)
        assert num_deaths <= 2 + len(killers) * (2 + 2)


def play(
    marks: Marks, chunk: int, num_rows: int, killers: Collection[int]
) -> tuple[list[int], list[int], int]:
    """Do a chunk, in process after process; returns the rows done and failed, and the deaths."""
    kept_rows: set[int] = set()
    for worker in range(1000):
        attempts: Any = marks.attempts(chunk, num_rows, str(worker))
        done: list[int] = []
        failed: list[int] = []
        for attempt in attempts:
            where = (attempt.start, attempt.stop)
            if attempt.num_deaths:
                assert attempt.num_deaths == 2
                failed += range(*where)
            elif attempt.kept is not None:
                done += attempt.kept
            else:
                assert attempt.is_alone == (worker > 0)  # once a process died
                marks.begin(chunk, where, str(worker), "here")
                rows: Any = range(*where)
                assert kept_rows.isdisjoint(rows)  # nothing that was done is done again
                if {*rows} & {*killers}:
                    break
                if len(attempts) > 1:
                    kept_rows.update(rows)
                marks.end(chunk, where, rows if len(attempts) > 1 else None)
                done += rows
        else:
            return done, failed, marks.done(chunk)
    raise AssertionError("no end")


def test_node_that_went_away_counts_for_nothing() -> None:
    lost: set[str] = set()
    marks = Marks(1, lambda: lost)
    lost.add("there")
    for number in range(200):
        marks.attempts(7, 64, f"w{number}")
        marks.begin(7, (0, 64), f"w{number}", "there")
    assert marks.attempts(7, 64, "last") == [Attempt(0, 64)]
    assert marks.done(7) == 200


def test_processes_that_end_before_they_are_ready_end_the_run() -> None:
    marks = Marks(2)
    for _ in range(3):
        assert [marks.starting() for _ in range(5)] == [None] * 5
        marks.ready()
    assert [marks.starting() for _ in range(6)] == [None] * 6
    assert "6 processes in a row ended before they were ready" in str(marks.starting())
