"""Many requests: in order, a few at a time, and an error is not swallowed."""

import itertools
import threading

import pytest

from xrec.storage import request_each


def test_request_each_keeps_the_order_and_takes_few_items_ahead() -> None:
    taken: list[int] = []

    def endless() -> "itertools.count[int]":
        for number in itertools.count():
            taken.append(number)
            yield number

    results = request_each(lambda number: number * 2, endless())
    assert [next(results) for _ in range(50)] == [number * 2 for number in range(50)]
    assert len(taken) <= 60


def test_request_each_runs_some_at_the_same_time() -> None:
    barrier = threading.Barrier(4, timeout=30)  # passes only if four are in flight together
    assert list(request_each(lambda number: (barrier.wait(), number)[1], range(4))) == [0, 1, 2, 3]


def test_request_each_raises_what_a_request_raised() -> None:
    def request(number: int) -> int:
        if number == 3:
            raise OSError("no answer")
        return number

    with pytest.raises(OSError, match="no answer"):
        list(request_each(request, range(10)))
