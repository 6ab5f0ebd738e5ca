"""Steps an engine's core in a thread of its own, so that callers never wait for the model.

Callers may be in an event loop or in other threads. Between two steps the model's thread handles
what they sent: new requests, cancellations, and functions that must have the model to themselves.
"""

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from xrec.generate.engine import Advance, EngineCore, RequestParams

logger = logging.getLogger("xrec")
T = TypeVar("T")

Listener = Callable[[Advance], None]
"""Called after each step of one request, in the model's thread; it must return at once."""


@dataclass(eq=False)
class Ticket:
    """A submitted request; `on_failure` is called if a step fails before the request has ended."""

    prompt: Sequence[int]
    params: RequestParams
    listener: Listener
    on_failure: Callable[[BaseException], None]
    request_id: int | None = None
    is_cancelled: bool = False


class EngineThread:
    """Steps `core` until `stop` is called.

    `failure` is the exception that a step raised; after it nothing is generated any more. It is
    None as long as no step has failed. What is sent once the thread has ended fails at once. Other
    threads may use only the attributes of `core` and its `refusal`.
    """

    def __init__(self, core: EngineCore):
        self.core = core
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._at_work: dict[int, Ticket] = {}
        self._is_stopping = False
        self._has_ended = False
        self._ending = threading.Lock()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._loop, name="xrec-model", daemon=True)
        self._thread.start()

    def submit(
        self,
        prompt: Sequence[int],
        params: RequestParams,
        *,
        listener: Listener,
        on_failure: Callable[[BaseException], None],
    ) -> Ticket:
        """Submit a request; returns at once."""
        ticket = Ticket(prompt, params, listener, on_failure)
        self._send(lambda: self._add(ticket))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Stop a request before the next step; its listener is not called any more."""
        ticket.is_cancelled = True
        self._send(lambda: self._cancel(ticket))

    def call(self, function: Callable[[], T]) -> "Future[T]":
        """Run `function` in the model's thread between two steps.

        The future gets its result or its exception.
        """
        future: Future[T] = Future()

        def command() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                if self._has_ended:
                    raise _stopped()
                future.set_result(function())
            except Exception as error:  # noqa: BLE001  the future hands it to the caller
                future.set_exception(error)

        self._send(command)
        return future

    def stop(self) -> None:
        """Tell the thread to end once all requests have ended; returns at once."""
        self._commands.put(None)

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended."""
        self._thread.join(timeout)

    def _send(self, command: Callable[[], None]) -> None:
        """Have the model's thread run a command; once that has ended, run it here, to fail."""
        with self._ending:
            if not self._has_ended:
                self._commands.put(command)
                return
        command()

    def _loop(self) -> None:
        try:
            self._step_until_stopped()
        finally:
            with self._ending:
                self._has_ended = True
            while not self._commands.empty():
                if (command := self._commands.get()) is not None:
                    command()

    def _step_until_stopped(self) -> None:
        try:
            while not (self._is_stopping and self.core.is_idle):
                self._take_commands()
                for advance in self.core.step():
                    self._tell(advance)
        except Exception as error:
            logger.exception("the model's thread failed")
            self.failure = error
            for ticket in self._at_work.values():
                ticket.on_failure(error)
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

    def _add(self, ticket: Ticket) -> None:
        if self.failure is not None or self._has_ended:
            ticket.on_failure(self.failure or _stopped())
        elif not ticket.is_cancelled:
            ticket.request_id = self.core.add(ticket.prompt, ticket.params)
            self._at_work[ticket.request_id] = ticket

    def _cancel(self, ticket: Ticket) -> None:
        if ticket.request_id is not None:
            self.core.cancel(ticket.request_id)
            self._at_work.pop(ticket.request_id, None)

    def _tell(self, advance: Advance) -> None:
        ticket = self._at_work[advance.request_id]
        if advance.completion is not None:
            del self._at_work[advance.request_id]
        if not ticket.is_cancelled:
            ticket.listener(advance)


def _stopped() -> RuntimeError:
    return RuntimeError("the model's thread was stopped before it came to this request")
