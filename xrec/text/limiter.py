"""Keeps requests and tokens below a rate: each goes at a distance from the one before.

With R requests a minute, two of them are at least 60 / R seconds apart; with T tokens a minute, one
of n tokens keeps the next one away for 60 n / T seconds. So no minute has more than R, and there
are no bursts, after a pause neither.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable


class RateLimiter:
    """Admits requests of one event loop, in the order in which they come.

    A rate that is None is not limited. clock: seconds that never go back.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ):
        self._seconds_per_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._seconds_per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._clock, self._sleep = clock, sleep
        self._turn = asyncio.Lock()
        self._next_request = self._next_token = self._paused_until = clock()

    async def admit(self, num_tokens: float) -> None:
        """Wait until a request of about `num_tokens` tokens may be sent."""
        async with self._turn:
            while (wait := self._seconds_to_wait()) > 0:
                await self._sleep(wait)
            now = self._clock()
            self._next_request = now + self._seconds_per_request
            self._next_token = max(now, self._next_token) + num_tokens * self._seconds_per_token

    def correct(self, num_more_tokens: float) -> None:
        """Note that a request took so many more tokens than it was admitted with, or fewer."""
        self._next_token += num_more_tokens * self._seconds_per_token

    def pause(self, seconds: float) -> None:
        """Admit nothing for so long, as the endpoint wished."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def _seconds_to_wait(self) -> float:
        return max(self._next_request, self._next_token, self._paused_until) - self._clock()
