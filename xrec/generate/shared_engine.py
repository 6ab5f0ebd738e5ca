"""Closed lists of requests over one core, from several threads at the same time.

Each thread takes its completions from an iterator. Whoever waits for one computes the next step for
all, so no thread of its own is needed. A backfill's actor works on several chunks like this: the
prompts of the next chunk enter while the last texts of the one before are being written.

A step that raises an error may do so because of any request at work. So the lists at work are then
done again, one at a time, and a list raises the error only if it fails alone.
"""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from xrec.generate.engine import (
    Advance,
    Completion,
    EngineCore,
    EngineReport,
    RequestParams,
)

Requests = Sequence[tuple[Sequence[int], RequestParams]]


@dataclass(eq=False)
class _List:
    """A closed list: the places that wait, the places at work by request id, and what has ended."""

    requests: Requests
    waiting: list[int]
    at_work: dict[int, int] = field(default_factory=dict)
    ended: deque[Completion] = field(default_factory=deque)
    error: Exception | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to compute."""
        return not self.waiting and not self.at_work

    def enter(self, core: EngineCore) -> None:
        """Add the requests that wait to the core."""
        for place in self.waiting:
            self.at_work[core.add(*self.requests[place])] = place
        self.waiting = []

    def leave(self, core: EngineCore) -> None:
        """Take the requests at work out of the core; they wait again."""
        for request_id in self.at_work:
            core.cancel(request_id)
        self.waiting, self.at_work = sorted([*self.waiting, *self.at_work.values()]), {}


class SharedEngine:
    """Generates text for prompts that may hold collaborative tokens, on `core`.

    Threads may call it at the same time: their prompts are computed together. A caller that steps
    `core` itself must be its only caller.
    """

    def __init__(self, core: EngineCore):
        self.core = core
        self._changed = threading.Condition()
        self._is_stepping = False
        self._lists: list[_List] = []
        self._alone: deque[_List] = deque()
        """Lists of a failed step; only the first one may be at work, and no other list."""
        self._cancelled: list[int] = []

    def take_report(self) -> EngineReport:
        """What all calls since the last one of this cost."""
        taken, self.core.report = self.core.report, EngineReport()
        return taken

    def complete(self, requests: Requests) -> Iterator[Completion]:
        """Yield the completions of a closed list of requests, in the order in which they finish.

        `Completion.index` is the place in the list. Raises the error of a step that fails with
        these requests alone. If the iterator is closed, what is left of its requests is cancelled.
        Any thread that waits for a completion may be the one that calls a request's `is_refused`.
        """
        mine = _List(requests, list(range(len(requests))))
        with self._changed:
            self._lists.append(mine)
        try:
            for _ in requests:
                yield self._next(mine)
        finally:
            self._leave(mine)

    def _next(self, mine: _List) -> Completion:
        """The next completion of a list; computes steps for all lists until there is one."""
        while True:
            with self._changed:
                while self._is_stepping and not mine.ended and mine.error is None:
                    self._changed.wait()
                if mine.ended:
                    return mine.ended.popleft()
                if mine.error is not None:
                    raise mine.error
                self._is_stepping = True
            try:
                self._step()
            finally:
                with self._changed:
                    self._is_stepping = False
                    self._cancel()
                    self._changed.notify_all()

    def _step(self) -> None:
        with self._changed:
            self._cancel()
            self._let_in()
        try:
            advances = self.core.step()
        except Exception as error:  # noqa: BLE001  it goes to the lists at work
            with self._changed:
                self._fail(error)
            return
        with self._changed:
            for advance in advances:
                self._tell(advance)

    def _let_in(self) -> None:
        """Add the requests that wait; while lists of a failed step are left, only the first's."""
        while self._alone and self._alone[0].has_ended:
            self._alone.popleft()
        for one in [self._alone[0]] if self._alone else self._lists:
            one.enter(self.core)

    def _tell(self, advance: Advance) -> None:
        if advance.completion is None:
            return
        for one in self._lists:
            if advance.request_id in one.at_work:
                place = one.at_work.pop(advance.request_id)
                one.ended.append(replace(advance.completion, index=place))

    def _fail(self, error: Exception) -> None:
        """Take all requests back; a list that was alone fails, others are done again alone."""
        at_work = [one for one in self._lists if one.at_work]
        for one in at_work:
            one.leave(self.core)
            if len(at_work) == 1:
                one.error = error
            elif one not in self._alone:
                self._alone.append(one)

    def _leave(self, mine: _List) -> None:
        with self._changed:
            self._cancelled += mine.at_work
            self._lists.remove(mine)
            if mine in self._alone:
                self._alone.remove(mine)
            if not self._is_stepping:
                self._cancel()
            self._changed.notify_all()

    def _cancel(self) -> None:
        for request_id in self._cancelled:
            self.core.cancel(request_id)
        self._cancelled = []
