"""Steps an engine's core in a thread of its own, so that the event loop never waits for the model.

Between two steps the thread takes in what the event loop sent: new requests and cancellations.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from xrec.errors import ModelError
from xrec.generate.engine import Advance, EngineCore, RequestParams

logger = logging.getLogger("xrec")


class EngineRequest:
    """A request at the engine; what it gets goes from the engine's thread to the event loop.

    Unless it `tells_all`, only the end of the text is handed on. `first_token_at` is by the
    performance counter, and 0 before the first token.
    """

    def __init__(self, prompt: Sequence[int], params: RequestParams, *, tells_all: bool):
        self.prompt, self.params = prompt, params
        self.request_id: int | None = None
        self.first_token_at = 0.0
        self._tells_all, self._loop = tells_all, asyncio.get_running_loop()
        self._is_told = asyncio.Event()
        self._newest: Advance | Exception

    async def latest(self) -> Advance:
        """Wait for an advance and return the newest one; each holds the whole text so far.

        Raises ModelError if the engine failed.
        """
        await self._is_told.wait()
        self._is_told.clear()
        if isinstance(self._newest, Exception):
            raise ModelError(f"the model failed: {self._newest}") from self._newest
        return self._newest

    def tell(self, event: Advance | Exception) -> None:
        """Take what a step did, or why there is no step any more; for the engine's thread."""
        self.first_token_at = self.first_token_at or time.perf_counter()
        if isinstance(event, Advance) and event.completion is None and not self._tells_all:
            return
        self._newest = event
        try:
            self._loop.call_soon_threadsafe(self._is_told.set)
        except RuntimeError:
            assert self._loop.is_closed(), "the loop is closed only when the process ends"


class EngineThread:
    """Steps `core` until `stop` is called; no request may come after that.

    `failure` is the exception that a step raised; after it nothing is generated any more. It is
    None as long as no step has failed. The event loop may use only the attributes of `core` and its
    `refusal`.
    """

    def __init__(self, core: EngineCore):
        self.core = core
        self.failure: Exception | None = None
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._at_work: dict[int, EngineRequest] = {}
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="xrec-model", daemon=True)
        self._thread.start()

    @contextmanager
    def request(
        self, prompt: Sequence[int], params: RequestParams, *, tells_all: bool
    ) -> Iterator[EngineRequest]:
        """Submit a request; what is left of it at exit is cancelled before the next step."""
        request = EngineRequest(prompt, params, tells_all=tells_all)
        self._commands.put(partial(self._add, request))
        try:
            yield request
        finally:
            self._commands.put(partial(self._cancel, request))

    def stop(self) -> None:
        """Tell the thread to end once all requests have ended; returns at once."""
        self._commands.put(None)

    def _run(self) -> None:
        try:
            while not (self._is_stopping and self.core.is_idle):
                self._take_commands()
                for advance in self.core.step():
                    self._tell(advance)
        except Exception as error:
            logger.exception("the model's thread failed")
            self.failure = error
            for request in self._at_work.values():
                request.tell(error)
            while not self._is_stopping and (command := self._commands.get()) is not None:
                command()

    def _take_commands(self) -> None:
        """Run all commands that have come; if there is nothing to compute, wait for one."""
        is_idle = self.core.is_idle
        while is_idle or not self._commands.empty():
            command = self._commands.get()
            if command is None:
                self._is_stopping = True
            else:
                command()
            is_idle = self.core.is_idle and not self._is_stopping

    def _add(self, request: EngineRequest) -> None:
        if self.failure is not None:
            request.tell(self.failure)
            return
        request.request_id = self.core.add(request.prompt, request.params)
        self._at_work[request.request_id] = request

    def _cancel(self, request: EngineRequest) -> None:
        if request.request_id is not None:
            self.core.cancel(request.request_id)
            self._at_work.pop(request.request_id, None)

    def _tell(self, advance: Advance) -> None:
        request = self._at_work[advance.request_id]
        if advance.completion is not None:
            del self._at_work[advance.request_id]
        request.tell(advance)
