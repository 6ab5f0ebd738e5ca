"""The rate limiter, on a clock that only its own waits move."""

import asyncio
from itertools import pairwise

import pytest

from xrec.text.limiter import RateLimiter


class Clock:
    """Seconds that pass while somebody sleeps, and a little more, as with a busy event loop."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds + 0.003


def _times(limiter: RateLimiter, clock: Clock, sizes: list[float]) -> list[float]:
    async def admit(size: float) -> float:
        await limiter.admit(size)
        return clock.now

    async def all_of_them() -> list[float]:
        return list(await asyncio.gather(*map(admit, sizes)))

    return asyncio.run(all_of_them())


def _most_in_a_minute(times: list[float], sizes: list[float]) -> float:
    return max(
        sum(size for time, size in zip(times, sizes, strict=True) if start <= time < start + 60)
        for start in times
    )


def test_limiter_of_requests_lets_no_more_through_in_any_minute() -> None:
    clock = Clock()
    times = _times(RateLimiter(90, clock=clock, sleep=clock.sleep), clock, [1.0] * 400)
    assert 85 <= _most_in_a_minute(times, [1.0] * 400) <= 90
    assert min(after - before for before, after in pairwise(times)) >= 60 / 90


def test_limiter_of_tokens_lets_no_more_through_in_any_minute() -> None:
    clock, sizes = Clock(), [float(100 + place % 7 * 50) for place in range(300)]
    limiter = RateLimiter(None, 6000, clock=clock, sleep=clock.sleep)
    most = _most_in_a_minute(_times(limiter, clock, sizes), sizes)
    assert 5400 <= most <= 6000 + max(sizes)


def test_limiter_that_is_told_of_more_tokens_makes_the_next_one_wait_for_them() -> None:
    clock = Clock()
    limiter = RateLimiter(None, 600, clock=clock, sleep=clock.sleep)
    first = _times(limiter, clock, [10])[0]
    limiter.correct(50)
    assert _times(limiter, clock, [10])[0] - first == pytest.approx(6.0, abs=0.01)


def test_limiter_with_a_pause_holds_back_all_and_then_keeps_its_distances() -> None:
    clock = Clock()
    limiter = RateLimiter(60, clock=clock, sleep=clock.sleep)
    limiter.pause(30)
    times = _times(limiter, clock, [1.0] * 5)
    assert times[0] >= 130
    assert min(after - before for before, after in pairwise(times)) >= 1


def test_limiter_without_limits_does_not_wait() -> None:
    clock = Clock()
    assert _times(RateLimiter(clock=clock, sleep=clock.sleep), clock, [1e9] * 50) == [100.0] * 50
