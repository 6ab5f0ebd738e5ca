"""A live run in a thread of its own: whoever asks, from an event loop or another thread, never waits for the model.

Between two steps the thread takes in what came meanwhile: new requests, cancelled ones, and functions that need the model
to themselves for a moment (scoring).
"""

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from xrec.config.llm import DecodingConfig
from xrec.generate.live_run import Advance, LiveRun

logger = logging.getLogger("xrec")
T = TypeVar("T")

Listener = Callable[[Advance], None]
"""Told of each step of one request, in the model's thread: it must return at once."""


@dataclass(eq=False)
class Ticket:
    """A request that was handed in; `on_failure` is told if a step fails before the request has ended."""

    prompt: Sequence[int]
    decoding: DecodingConfig
    is_injected: bool
    listener: Listener
    on_failure: Callable[[BaseException], None]
    request_id: int | None = None
    is_cancelled: bool = False


class LiveEngine:
    """Runs `run` until `stop`. `failure` is what a step raised: nothing is generated any more; None while all is well."""

    def __init__(self, run: LiveRun):
        self._run = run
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._at_work: dict[int, Ticket] = {}
        self._is_stopping = False
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._loop, name="xrec-live-engine", daemon=True)
        self._thread.start()

    @property
    def num_rows(self) -> int:
        """Requests at work; exact between two steps only."""
        return self._run.num_rows

    @property
    def num_waiting(self) -> int:
        """Requests without a row; exact between two steps only."""
        return self._run.num_waiting

    @property
    def run(self) -> LiveRun:
        """What it runs: `refusal`, `num_slots` and `key_value_bytes` may be read from any thread."""
        return self._run

    def submit(
        self,
        prompt: Sequence[int],
        decoding: DecodingConfig,
        *,
        is_injected: bool,
        listener: Listener,
        on_failure: Callable[[BaseException], None],
    ) -> Ticket:
        """Hand in a prompt that the run does not refuse."""
        ticket = Ticket(prompt, decoding, is_injected, listener, on_failure)
        self._commands.put(lambda: self._add(ticket))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Stop a request, before the next step; nothing more is told of it."""
        ticket.is_cancelled = True
        self._commands.put(lambda: self._cancel(ticket))

    def call(self, function: Callable[[], T]) -> "Future[T]":
        """Run `function` in the model's thread between two steps; its result or its exception is the future's."""
        future: Future[T] = Future()

        def command() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except Exception as error:  # noqa: BLE001  it is the caller's, who gets it
                future.set_exception(error)

        self._commands.put(command)
        return future

    def stop(self) -> None:
        """End the thread once all requests have ended; returns at once."""
        self._commands.put(None)

    def join(self, timeout: float | None = None) -> None:
        """Wait for the thread's end."""
        self._thread.join(timeout)

    def _loop(self) -> None:
        try:
            while not (self._is_stopping and self._run.is_idle):
                self._take_commands()
                for advance in self._run.step():
                    self._tell(advance)
        except Exception as error:
            logger.exception("the model's thread failed")
            self.failure = error
            for ticket in self._at_work.values():
                ticket.on_failure(error)
            while not self._is_stopping and (command := self._commands.get()) is not None:
                command()

    def _take_commands(self) -> None:
        """All that have come; with nothing to compute, wait for one."""
        is_idle = self._run.is_idle
        while is_idle or not self._commands.empty():
            command = self._commands.get()
            if command is None:
                self._is_stopping = True
            else:
                command()
            is_idle = self._run.is_idle and not self._is_stopping

    def _add(self, ticket: Ticket) -> None:
        if self.failure is not None:
            ticket.on_failure(self.failure)
        elif not ticket.is_cancelled:
            ticket.request_id = self._run.add(
                ticket.prompt, ticket.decoding, is_injected=ticket.is_injected
            )
            self._at_work[ticket.request_id] = ticket

    def _cancel(self, ticket: Ticket) -> None:
        if ticket.request_id is not None:
            self._run.cancel(ticket.request_id)
            self._at_work.pop(ticket.request_id, None)

    def _tell(self, advance: Advance) -> None:
        ticket = self._at_work[advance.request_id]
        if advance.completion is not None:
            del self._at_work[advance.request_id]
        if not ticket.is_cancelled:
            ticket.listener(advance)
