"""Requests of many callers over one core, which one thread steps as long as there is work.

The thread starts with the first request and ends when nothing is at work. Between two steps it
takes in what callers sent: new requests, further texts of a prompt, and cancellations. A backfill's
actor works on several chunks like this, so the prompts of the next chunk enter while the last texts
of the one before are being written. The endpoint's event loop never waits for the model.

Callers look at a text in their own threads, while the next step runs, and may then ask for another
one of the same prompt. Time limits and errors are handled here, the same for every core. A step
that raises an error may do so because of any request at work, so all of them get the error.
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
    TextParams,
    failed,
)

logger = logging.getLogger("xrec")

Requests = Sequence[tuple[Sequence[int], RequestParams]]

Again = Callable[[Completion], TextParams | None]
"""Looks at a text that has ended, and returns how the next text of its prompt is drawn, with as
many tokens at most, or None if this one is the completion."""


@dataclass(eq=False)
class EngineRequest:
    """A prompt and what is asked of it.

    tell: gets each of its advances, the last one with its completion, or the error that ended it.
        The engine's thread calls it, and must not wait in it.
    request_id: the core's id, or None if the core does not have the request, or no longer.
    has_ended: whether the last text that was asked for has ended.
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
    last error of the core. Others may use the attributes of `core` and its `refusal` only. A
    request that is at work more than `row_seconds` after its first token, by `clock`, is cancelled.

    While no text is being written, kept prompts give way to those that wait. Before that happens,
    a step waits up to `again_seconds` for callers who may ask for another text of a kept prompt.
    """

    def __init__(
        self,
        core: EngineCore,
        row_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        again_seconds: float = 0.2,
    ):
        self.core, self._row_seconds, self._clock = core, row_seconds, clock
        self._again_seconds = again_seconds
        self.failure: Exception | None = None
        self._changed = threading.Condition()
        self._commands: list[Callable[[], None]] = []
        self._has_thread = False
        self._at_work: dict[int, EngineRequest] = {}
        self._undecided: set[EngineRequest] = set()
        """Requests whose text has ended and whose prompt is kept in case another one is drawn."""

    def take_report(self) -> EngineReport:
        """What all calls since the last one of this cost."""
        taken, self.core.report = self.core.report, EngineReport()
        return taken

    def complete(self, requests: Requests, again: Again | None = None) -> Iterator[Completion]:
        """Yield the completions of a closed list of requests, in the order in which they finish.

        `Completion.index` is the place in the list. `again` is asked in this thread, while the
        engine works on. Raises the error of a step that fails while the list is at work. If the
        iterator is closed, what is left of its requests is cancelled.
        """
        ended: SimpleQueue[Completion | Exception] = SimpleQueue()

        def take(place: int, event: Advance | Exception) -> None:
            if isinstance(event, Exception):
                ended.put(event)
            elif event.completion is not None:
                ended.put(replace(event.completion, index=place))

        listed = [EngineRequest(*one, partial(take, place)) for place, one in enumerate(requests)]
        with self.at_work(listed):
            num_left = len(listed)
            while num_left:
                found = ended.get()
                if isinstance(found, Exception):
                    raise found
                params = again(found) if again is not None else None
                if params is not None:
                    self.resubmit(listed[found.index], params)
                    continue
                self.release(listed[found.index])
                num_left -= 1
                yield found

    @contextmanager
    def at_work(self, requests: Sequence[EngineRequest]) -> Iterator[None]:
        """Submit requests together; those left at exit are cancelled before the next step."""
        if requests:
            self._send(partial(self._add, requests))
        try:
            yield
        finally:
            self.release(*requests)

    def resubmit(self, request: EngineRequest, params: TextParams) -> None:
        """Ask for another text of the prompt of a request that has ended."""
        request.params, request.has_ended = params, False
        self._send(partial(self._add, [request]), request)

    def release(self, *requests: EngineRequest) -> None:
        """Cancel the texts of requests that have not ended, and release prompts that were kept."""
        left = [one for one in requests if not one.has_ended or one.request_id is not None]
        if left:
            self._send(partial(self._cancel, left), *left)

    def _send(self, command: Callable[[], None], *decided: EngineRequest) -> None:
        with self._changed:
            self._commands.append(command)
            self._undecided.difference_update(decided)
            self._changed.notify()
            if not self._has_thread:
                self._has_thread = True
                threading.Thread(target=self._run, name="xrec-model", daemon=True).start()

    def _run(self) -> None:
        while (commands := self._received()) is not None:
            errors = [error for command in commands if (error := _error_of(command)) is not None]
            if not errors and self._at_work and (error := _error_of(self._step)) is not None:
                errors.append(error)
            if errors:
                self._fail(errors[0])

    def _received(self) -> list[Callable[[], None]] | None:
        """The commands that came since the last step; None, and the thread ends, without work."""
        with self._changed:
            if self._at_work and not self.core.num_rows:
                self._changed.wait_for(lambda: not self._undecided, self._again_seconds)
                self._undecided.clear()
            self._has_thread = bool(self._commands or self._at_work)
            commands, self._commands = self._commands, []
            return commands if self._has_thread else None

    def _add(self, requests: Sequence[EngineRequest]) -> None:
        for request in requests:
            earlier = () if request.request_id is None else (request.request_id,)
            try:
                request_id = self.core.add(request.prompt, request.params, *earlier)
            except Exception as error:  # noqa: BLE001  it goes to the caller whose request it is
                request.has_ended = True
                request.tell(error)
                continue
            request.request_id = request_id
            self._at_work[request_id] = request

    def _cancel(self, requests: Sequence[EngineRequest]) -> None:
        self._undecided.difference_update(requests)
        for request in requests:
            if request.request_id is not None:
                request_id, request.request_id = request.request_id, None
                self._at_work.pop(request_id, None)
                self.core.cancel(request_id)

    def _step(self) -> None:
        advances, now = self.core.step(), self._clock()
        for advance in advances:
            request = self._at_work.get(advance.request_id)
            if request is not None:  # else the core could not cancel it
                request.began_at = now if request.began_at is None else request.began_at
                self._tell(request, advance)
        most = self._row_seconds
        if most is None:
            return
        for request_id, request in list(self._at_work.items()):
            if request.began_at is not None and now - request.began_at > most:
                self.core.cancel(request_id)
                why = f"the text took longer than engine.row_seconds = {most:g}; raise it, or retry"
                self._tell(request, failed(request_id, Failure("timeout", why)))

    def _tell(self, request: EngineRequest, advance: Advance) -> None:
        if (completion := advance.completion) is not None:
            del self._at_work[advance.request_id]
            params = request.params
            is_kept = isinstance(params, TextParams) and params.keeps_prompt
            if completion.failure is not None or not is_kept:
                request.request_id = None
            else:
                self._undecided.add(request)
            request.has_ended = True
        request.tell(advance)

    def _fail(self, error: Exception) -> None:
        logger.warning("the engine failed", exc_info=error)
        self.failure = error
        requests, self._at_work = self._at_work, {}
        self._undecided.clear()
        for request_id, request in requests.items():
            with suppress(Exception):  # what failed may not be able to cancel either
                self.core.cancel(request_id)
            request.request_id, request.has_ended = None, True
            request.tell(error)


def _error_of(work: Callable[[], None]) -> Exception | None:
    """Do `work`; return the error that it raises."""
    try:
        work()
    except Exception as error:  # noqa: BLE001  it goes to all requests at work
        return error
    except BaseException as error:  # noqa: BLE001  else the thread would end, and callers wait
        return RuntimeError(f"the engine raised {error!r}")
    return None
