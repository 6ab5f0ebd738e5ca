"""Many small requests at a time, few in flight: what a store with milliseconds of latency needs."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_IN_FLIGHT = 8


def request_each(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield `function(item)` of each item, in order; of `items`, which may be endless, only those in flight are held."""
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= _IN_FLIGHT:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
