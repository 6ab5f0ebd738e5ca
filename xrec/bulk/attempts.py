"""Finds rows that kill their process: a range of rows is halved until one row is left.

A whole unit is tried twice, because a machine may be lost through no fault of a row. After that
each half is tried once, then each quarter, and so on. A single row is tried twice; then it becomes
a failed row. A range with which a process died is tried again on an actor that does nothing else,
so what dies then died of this range.
"""

from collections.abc import Iterator, Mapping

from xrec.bulk.work import Unit, Work

_CHANCES_OF_UNIT = 2
_CHANCES_OF_PART = 1
_CHANCES_OF_ROW = 2


def works_of(unit: Unit, deaths: Mapping[str, int]) -> list[Work]:
    """What is to be tried next of a whole unit; `deaths` are counts by `Work.name`."""
    return list(_divided(unit, 0, unit.num_rows, deaths))


def after_death(work: Work, deaths: Mapping[str, int]) -> list[Work]:
    """What is to be tried in place of `work`, whose process died; `deaths` has this death too."""
    return list(_divided(work.unit, work.start, work.stop, deaths))


def _divided(unit: Unit, start: int, stop: int, deaths: Mapping[str, int]) -> Iterator[Work]:
    num_deaths = deaths.get(Work(unit, start, stop).name, 0)
    is_part = stop - start < unit.num_rows
    if num_deaths < _chances(unit, start, stop):
        yield Work(unit, start, stop, is_alone=is_part or num_deaths > 0)
    elif stop - start == 1:
        yield Work(unit, start, stop, num_deaths=num_deaths)
    else:
        middle = (start + stop) // 2
        yield from _divided(unit, start, middle, deaths)
        yield from _divided(unit, middle, stop, deaths)


def _chances(unit: Unit, start: int, stop: int) -> int:
    if stop - start == 1:
        return _CHANCES_OF_ROW
    return _CHANCES_OF_UNIT if stop - start == unit.num_rows else _CHANCES_OF_PART
