"""How many works a process does at a time, and how its time is divided among them."""

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from xrec.bulk.work import room as room_module
from xrec.bulk.work.room import Room


def test_room_shares_of_works_at_a_time_add_up_to_it(monkeypatch):
    clock = iter([0.0, 10.0, 30.0, 90.0, 200.0, 201.0, 300.0, 304.0])
    # The module's own: other threads, such as the one of fsspec, look at the time too.
    monkeypatch.setattr(room_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    room = Room(2)
    with room.enter() as first:
        with room.enter() as second:
            pass
        assert second.seconds == 10
    assert first.seconds == 10 + 10 + 60
    with room.enter() as third:
        pass
    assert third.seconds == 1  # what was between is nobody's
    with room.enter(alone=True) as alone:
        pass
    assert alone.seconds == 4


def test_room_has_so_many_works_at_a_time_and_one_that_is_alone_has_nobody_beside():
    room, inside, seen = Room(3), set(), []

    def work(number: int) -> None:
        is_alone = number % 5 == 0
        with room.enter(alone=is_alone):
            inside.add(number)
            time.sleep(0.005)
            seen.append((is_alone, len(inside)))
            inside.remove(number)

    with ThreadPoolExecutor(40) as pool:
        list(pool.map(work, range(40)))
    assert len(seen) == 40
    assert max(count for is_alone, count in seen if not is_alone) == 3
    assert {count for is_alone, count in seen if is_alone} == {1}
    for is_alone in (True, False, True):  # the room is free again after an error
        for _ in range(4):
            with pytest.raises(ZeroDivisionError), room.enter(alone=is_alone):
                raise ZeroDivisionError
