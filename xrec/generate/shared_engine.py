"""Serve the requests of many callers with one core, which a thread steps while there is work.

The thread starts with the first request and ends with the last. Between steps, it handles the
commands of callers: new requests, further texts for a prompt, and cancellations. A backfill's actor
thus works on several chunks at a time: the prompts of the next chunk start while the last texts of
the previous one are being written. The endpoint's event loop never waits for the model.

Callers inspect a text in their own threads, while the next step runs, and may then request another
one for the same prompt. Time limits and errors are handled here, in the same way for every core. An
error in a step may be due to any request, so all running requests get it.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue

from xrec.errors import Failure
from xrec.generate.engine import (
    Advance,
    Completion,
    EngineCore,
    EngineReport,
    RequestParams,
    TextParams,
    failed,
)

logger = logging.getLogger("xrec")

Requests = Sequence[tuple[Sequence[int], RequestParams]]

Again = Callable[[Completion], TextParams | None]
"""A function that inspects a text that has ended. It returns the parameters of the next text of the
prompt, with at most as many tokens, or None to accept this one."""


@dataclass(eq=False)
class EngineRequest:
    """A prompt and the parameters of its text.

    tell: called with each advance, the last of which has the completion, or with the error that
        ended the request. It runs in the engine's thread, so it must not block.
    request_id: the core's ID of the request; None if the core does not have it.
    has_ended: whether the last requested text has ended.
    """

    prompt: Sequence[int]
    params: RequestParams
    tell: Callable[[Advance | Exception], None]
    request_id: int | None = None
    has_ended: bool = False
    began_at: float | None = None  # when its first token came


class SharedEngine:
    """Generates texts with `core` for prompts that may contain collaborative tokens.

    Several threads may call it at a time; their prompts are computed together. Callers may only
    use the attributes of `core` and its `refusal`.

    failure: the last error of the core.
    row_seconds: a request that is still running so long after its first token is canceled.
    again_seconds: how long a step waits for callers who may request another text of a kept prompt.
        It waits only if no text is being written; then waiting prompts replace the kept ones.
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
        """Requests whose text has ended, and whose prompt is kept in case another is requested."""

    def take_report(self) -> EngineReport:
        """Return and reset the cost counters."""
        report, self.core.report = self.core.report, EngineReport()
        return report

    def complete(self, requests: Requests, again: Again | None = None) -> Iterator[Completion]:
        """Yield the completions of a list of requests as they finish.

        `Completion.index` is the index in the list. `again` runs in this thread, while the engine
        continues. Raises the error of a step that fails in the meantime. Closing the iterator
        cancels the remaining requests.
        """
        ended: SimpleQueue[Completion | Exception] = SimpleQueue()

        def take(index: int, event: Advance | Exception) -> None:
            if isinstance(event, Exception):
                ended.put(event)
            elif event.completion is not None:
                ended.put(replace(event.completion, index=index))

        listed = [EngineRequest(*pair, partial(take, n)) for n, pair in enumerate(requests)]
        with self.at_work(listed):
            num_left = len(listed)
            while num_left:
                completion = ended.get()
                if isinstance(completion, Exception):
                    raise completion
                params = again(completion) if again is not None else None
                if params is not None:
                    self.resubmit(listed[completion.index], params)
                    continue
                self.release(listed[completion.index])
                num_left -= 1
                yield completion

    @contextmanager
    def at_work(self, requests: Sequence[EngineRequest]) -> Iterator[None]:
        """Submit requests together; on exit, cancel those that are left before the next step."""
        if requests:
            self._send(partial(self._add, requests))
        try:
            yield
        finally:
            self.release(*requests)

    def resubmit(self, request: EngineRequest, params: TextParams) -> None:
        """Request another text for the prompt of a request that has ended."""
        request.params, request.has_ended = params, False
        self._send(partial(self._add, [request]), request)

    def release(self, *requests: EngineRequest) -> None:
        """Cancel requests that have not ended, and release the kept prompts of those that have."""
        left = [r for r in requests if not r.has_ended or r.request_id is not None]
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
        """Return the commands since the last step; None if there is no work, which ends the thread.

        First wait for undecided callers, if no text is being written.
        """
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
            except Exception as error:  # noqa: BLE001  the caller of this request gets it
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
            if request is not None:  # None if the core failed to cancel it
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
            with suppress(Exception):  # a core that failed may also fail to cancel
                self.core.cancel(request_id)
            request.request_id, request.has_ended = None, True
            request.tell(error)


def _error_of(work: Callable[[], None]) -> Exception | None:
    """Call `work` and return the error that it raises, if any."""
    try:
        work()
    except Exception as error:  # noqa: BLE001  all running requests get it
        return error
    except BaseException as error:  # noqa: BLE001  otherwise the thread ends and callers hang
        return RuntimeError(f"the engine raised {error!r}")
    return None
