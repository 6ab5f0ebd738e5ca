"""Marks find the rows that kill, wherever they are, and no other row is to blame."""

from collections.abc import Collection
from typing import Any

import pytest

from xrec.bulk.work.marks import Attempt, Marks

KEPT: Any = object()


def ranges(attempts: list[Attempt] | str) -> list[tuple[int, int]]:
    assert not isinstance(attempts, str)
    return [(attempt.start, attempt.stop) for attempt in attempts]


def test_marks_chunk_is_tried_twice_as_a_whole_and_then_in_parts_of_which_each_is_again() -> None:
    marks = Marks(1)
    assert marks.attempts(7, 64, "one") == [Attempt(0, 64)]
    marks.begin(7, (0, 64), "one", "here")
    assert marks.attempts(7, 64, "one") == [Attempt(0, 64)]  # it is itself at work
    assert marks.attempts(7, 64, "two") == [Attempt(0, 64, is_alone=True)]
    marks.begin(7, (0, 64), "two", "here")
    parts = marks.attempts(7, 64, "three")
    assert ranges(parts) == [(start, start + 4) for start in range(0, 64, 4)]
    assert all(isinstance(part, Attempt) and part.is_alone for part in parts)
    assert marks.attempts(8, 64, "four") == [Attempt(0, 64)]  # another chunk
    marks.begin(7, (0, 4), "three", "here")
    marks.end(7, (0, 4), KEPT)
    marks.begin(7, (4, 8), "three", "here")
    attempts = marks.attempts(7, 64, "four")
    assert attempts[0] == Attempt(0, 4, kept=KEPT)
    assert ranges(attempts)[:6] == [(0, 4), (4, 5), (5, 6), (6, 7), (7, 8), (8, 12)]
    for worker in ("four", "five"):
        marks.begin(7, (5, 6), worker, "here")
        marks.attempts(7, 64, "six")
    assert marks.attempts(7, 64, "six")[2] == Attempt(5, 6, num_deaths=2)
    assert marks.done(7) == 5
    assert marks.attempts(7, 64, "seven") == [Attempt(0, 64)]


def test_marks_node_that_went_away_counts_for_nothing() -> None:
    lost: set[str] = set()
    marks = Marks(1, lambda: lost)
    lost.add("there")
    for number in range(200):
        marks.attempts(7, 64, f"w{number}")
        marks.begin(7, (0, 64), f"w{number}", "there")
    assert marks.attempts(7, 64, "last") == [Attempt(0, 64)]
    assert marks.done(7) == 200


@pytest.mark.parametrize("num_rows", [1, 2, 7, 64, 300])
def test_marks_every_row_but_those_that_kill_is_done_once(num_rows: int) -> None:
    for killers in ({0}, {num_rows - 1}, {num_rows // 2, num_rows // 3}):
        done, failed, num_deaths = play(Marks(1), num_rows, killers)
        assert sorted(done) == [row for row in range(num_rows) if row not in killers]
        assert sorted(failed) == sorted(killers)
        assert num_deaths <= 2 + len(killers) * (2 + 2)


def play(marks: Marks, num_rows: int, killers: Collection[int]) -> tuple[list[int], list[int], int]:
    """Do a chunk, in process after process; returns the rows done and failed, and the deaths."""
    for worker in range(1000):
        attempts: Any = marks.attempts(7, num_rows, str(worker))
        outcomes: list[Any] = []
        for attempt in attempts:
            where = (attempt.start, attempt.stop)
            rows = list(range(*where))
            outcome: Any = attempt.kept or (([], rows) if attempt.num_deaths else (rows, []))
            if attempt.kept is None:
                marks.begin(7, where, str(worker), "here")
                if set(outcome[0]) & set(killers):
                    break
                marks.end(7, where, outcome if len(attempts) > 1 else None)
            outcomes.append(outcome)
        else:
            done, failed = (
                [row for rows in lists for row in rows] for lists in zip(*outcomes, strict=True)
            )
            return done, failed, marks.done(7)
    raise AssertionError("no end")


def test_marks_64_deaths_with_nothing_done_in_between_end_the_run() -> None:
    marks = Marks(4)
    for number in range(64):
        assert not isinstance(marks.attempts(number, 8, f"w{number}"), str)
        marks.begin(number, (0, 8), f"w{number}", "here")
    for number in range(63):
        assert not isinstance(marks.attempts(number, 8, "last"), str)
    why = marks.attempts(63, 8, "last")
    assert isinstance(why, str)
    assert "64 processes died one after the other" in why
    marks.end(63, (0, 8), None)
    assert not isinstance(marks.attempts(63, 8, "last"), str)


def test_marks_processes_that_end_before_they_are_ready_end_the_run() -> None:
    marks = Marks(2)
    for _ in range(3):
        assert [marks.starting() for _ in range(5)] == [None] * 5
        marks.ready()
    assert [marks.starting() for _ in range(6)] == [None] * 6
    assert "6 processes in a row ended before they were ready" in str(marks.starting())
