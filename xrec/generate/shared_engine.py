"""Requests of many callers over one core, which one thread steps as long as there is work.

The thread begins with the first request and ends when nothing is at work. Between two steps it
takes in what callers sent: new requests and cancellations. A backfill's actor works on several
chunks like this, and so the prompts of the next chunk enter while the last texts of the one before
are being written. The endpoint's event loop never waits for the model.

A step that raises an error may do so because of any request at work, so all of them get the error.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue

from xrec.generate.engine import (
    Advance,
    Completion,
    EngineCore,
    EngineReport,
    Failure,
    RequestParams,
    failed,
)

logger = logging.getLogger("xrec")

Requests = Sequence[tuple[Sequence[int], RequestParams]]


@dataclass(eq=False)
class EngineRequest:
    """A prompt and what is asked of it.

    tell: gets each of its advances, the last one with its completion, or the error that ended it.
        The engine's thread calls it, and must not wait in it.
    """

    prompt: Sequence[int]
    params: RequestParams
    tell: Callable[[Advance | Exception], None]
    request_id: int | None = None
    has_ended: bool = False
    began_at: float | None = None  # when its first token came


class SharedEngine:
    """Generates text for prompts that may hold collaborative tokens, on `core`.

    Threads may call it at the same time: their prompts are computed together. `failure` is the
    error of the last step that raised one. Others may use the attributes of `core` and its
    `refusal` only. A text that takes more than `row_seconds` from its first token is cancelled.
    """

    def __init__(self, core: EngineCore, row_seconds: float | None = None):
        self.core, self._row_seconds = core, row_seconds
        self.failure: Exception | None = None
        self._lock = threading.Lock()
        self._commands: list[Callable[[], None]] = []
        self._has_thread = False
        self._at_work: dict[int, EngineRequest] = {}

    def take_report(self) -> EngineReport:
        """What all calls since the last one of this cost."""
        taken, self.core.report = self.core.report, EngineReport()
        return taken

    def complete(self, requests: Requests) -> Iterator[Completion]:
        """Yield the completions of a closed list of requests, in the order in which they finish.

        `Completion.index` is the place in the list. Raises the error of a step that fails while the
        list is at work. If the iterator is closed, what is left of its requests is cancelled.
        """
        ended: SimpleQueue[Completion | Exception] = SimpleQueue()

        def take(place: int, event: Advance | Exception) -> None:
            if isinstance(event, Exception):
                ended.put(event)
            elif event.completion is not None:
                ended.put(replace(event.completion, index=place))

        listed = [EngineRequest(*one, partial(take, place)) for place, one in enumerate(requests)]
        with self.at_work(listed):
            for _ in listed:
                found = ended.get()
                if isinstance(found, Exception):
                    raise found
                yield found

    @contextmanager
    def at_work(self, requests: Sequence[EngineRequest]) -> Iterator[None]:
        """Submit requests together; those left at exit are cancelled before the next step."""
        if requests:
            self._send(partial(self._add, requests))
        try:
            yield
        finally:
            if not all(request.has_ended for request in requests):
                self._send(partial(self._cancel, requests))

    def _send(self, command: Callable[[], None]) -> None:
        with self._lock:
            self._commands.append(command)
            if not self._has_thread:
                self._has_thread = True
                threading.Thread(target=self._run, name="xrec-model", daemon=True).start()

    def _run(self) -> None:
        while (commands := self._received()) is not None:
            try:
                for command in commands:
                    command()
                if not self.core.is_idle:
                    for advance in self.core.step():
                        self._tell(advance)
            except Exception as error:  # noqa: BLE001  it goes to all requests at work
                self._fail(error)

    def _received(self) -> list[Callable[[], None]] | None:
        """The commands that came since the last step; None, and the thread ends, without work."""
        with self._lock:
            self._has_thread = bool(self._commands) or not self.core.is_idle
            commands, self._commands = self._commands, []
            return commands if self._has_thread else None

    def _add(self, requests: Sequence[EngineRequest]) -> None:
        for request in requests:
            try:
                request.request_id = self.core.add(request.prompt, request.params)
            except Exception as error:  # noqa: BLE001  it goes to who asked
                request.tell(error)
                return
            self._at_work[request.request_id] = request

    def _cancel(self, requests: Sequence[EngineRequest]) -> None:
        for request in requests:
            if request.request_id in self._at_work:
                self.core.cancel(request.request_id)
                del self._at_work[request.request_id]

    def _tell(self, advance: Advance) -> None:
        request, most, now = self._at_work[advance.request_id], self._row_seconds, time.monotonic()
        began_at = request.began_at = now if request.began_at is None else request.began_at
        if most is not None and advance.completion is None and now - began_at > most:
            self.core.cancel(advance.request_id)
            why = f"the text took longer than engine.row_seconds = {most:g}; raise it, or retry"
            advance = failed(advance.request_id, Failure("timeout", why))
        if advance.completion is not None:
            request.has_ended = True
            del self._at_work[advance.request_id]
        request.tell(advance)

    def _fail(self, error: Exception) -> None:
        logger.warning("a step of the engine failed", exc_info=error)
        self.failure = error
        requests, self._at_work = self._at_work, {}
        for request_id in requests:
            with suppress(Exception):  # what failed may not be able to cancel either
                self.core.cancel(request_id)
        for request in requests.values():
            request.has_ended = True
            request.tell(error)
