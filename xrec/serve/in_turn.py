"""Work in the background, one piece after the other, of which only the latest is wanted."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

Work = Callable[[], Coroutine[Any, Any, None]]


class InTurn:
    """Does what it is given after what was given before; not if more was given meanwhile.

    So of several swaps that are asked for while one is under way the last is made, and it stays.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._latest: Work | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Work) -> None:
        """Begin `work` when its turn has come; returns at once."""
        self._latest = work
        task = asyncio.create_task(self._do(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(self, work: Work) -> None:
        async with self._lock:
            if work is self._latest:
                await work()
