"""Ranges of rows are halved where processes die, whatever the place of the row to blame."""

from collections import Counter

import pytest

from xrec.bulk.attempts import after_death, works_of
from xrec.bulk.work import Unit


def unit(num_rows: int) -> Unit:
    return Unit("chunk 7", "part", 0, num_rows, "part-7", 3)


def ranges(num_rows: int, deaths: dict[str, int]) -> list[tuple[int, int]]:
    return [(work.start, work.stop) for work in works_of(unit(num_rows), deaths)]


def test_works_of_a_unit_is_tried_twice_whole_and_the_second_time_alone() -> None:
    (first,) = works_of(unit(8), {})
    (second,) = works_of(unit(8), {"chunk 7:0-8": 1})
    assert (first.is_whole, first.is_alone) == (True, False)
    assert (second.is_whole, second.is_alone) == (True, True)
    assert ranges(8, {"chunk 7:0-8": 2}) == [(0, 4), (4, 8)]
    assert ranges(8, {"chunk 7:0-8": 2, "chunk 7:4-8": 1}) == [(0, 4), (4, 6), (6, 8)]
    assert ranges(8, {"chunk 70:0-8": 2}) == [(0, 8)]


@pytest.mark.parametrize("num_rows", [1, 2, 3, 7, 64])
def test_after_death_every_row_but_the_one_that_kills_is_done_once(num_rows: int) -> None:
    for killer in range(num_rows):
        deaths: Counter[str] = Counter()
        works = works_of(unit(num_rows), deaths)
        done, num_failed = [], 0
        while works:
            work = works.pop()
            if work.num_deaths:
                assert (work.start, work.stop, work.num_deaths) == (killer, killer + 1, 2)
                num_failed += 1
            elif work.start <= killer < work.stop:
                deaths[work.name] += 1
                works += after_death(work, deaths)
            else:
                done += range(work.start, work.stop)
        assert sorted(done) == [row for row in range(num_rows) if row != killer]
        assert num_failed == 1
        assert deaths.total() <= 2 + 2 + num_rows.bit_length()
