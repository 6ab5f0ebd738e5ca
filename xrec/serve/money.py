"""The money that live texts may cost per day, shared by all replicas and restarts.

A process takes a day's money in slices: it creates the next file `<day>/<number>`, whose content is
the amount, and spends that without asking the store again. A process that dies loses the rest of
its slice. Days are those of UTC.
"""

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from xrec.storage import Location

_NUM_SLICES = 100

Reserved = tuple[str, float]
"""A day, and the money of it that is set aside for a text."""


def utc_now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


def seconds_until_tomorrow(now: datetime) -> int:
    """Return the seconds until the next day's money."""
    midnight = datetime(now.year, now.month, now.day, tzinfo=UTC) + timedelta(days=1)
    return int((midnight - now).total_seconds()) + 1


class DailyMoney:
    """At most `limit` per day, by `prices` of a million tokens; several threads may use it."""

    def __init__(
        self,
        folder: Location,
        limit: float,
        prices: Mapping[Any, float],
        now: Callable[[], datetime] = utc_now,
    ):
        self._folder, self._limit, self._prices, self._now = folder, limit, prices, now
        self._day, self._left = "", 0.0
        self._lock = threading.Lock()

    def cost(self, num_prompt_tokens: int, num_reply_tokens: int) -> float:
        """Return the price of a text."""
        prompt, reply = (self._prices.get(f"million_{n}_tokens", 0) for n in ("prompt", "reply"))
        return (prompt * num_prompt_tokens + reply * num_reply_tokens) / 1e6

    def reserve(self, money: float) -> Reserved | None:
        """Set money aside for a text; None if the day has too little. Raises StorageError."""
        with self._lock:
            if (day := self._now().date().isoformat()) != self._day:
                self._day, self._left = day, 0.0
            while self._left < money:
                amount = max(self._limit / _NUM_SLICES, money - self._left)
                folder = self._folder / day
                taken = [float((folder / name).read_bytes()) for name in folder.sizes()]
                if sum(taken) + amount > self._limit * (1 + 1e-9):
                    return None
                if (folder / str(len(taken))).create_bytes(repr(amount).encode()):
                    self._left += amount
            self._left -= money
            return day, money

    def settle(self, reserved: Reserved, spent: float) -> None:
        """Replace a text's reservation by what it cost; what is left of an earlier day is lost."""
        day, money = reserved
        with self._lock:
            self._left += money - spent if day == self._day else 0
