"""Closed lists of requests over one run, from several threads at the same time.

Each thread takes its completions from an iterator. Whoever waits for one computes the next step for
all, so no thread of its own is needed. A backfill's actor works on several chunks like this: the
prompts of the next chunk enter while the last texts of the one before are being written.

A step that raises an error may do so because of any request at work. So the lists at work are then
done again, one at a time, and a list raises the error only if it fails alone.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from xrec.config.decoding import DecodingConfig
from xrec.generate.engine import (
    Advance,
    Completion,
    RequestParams,
    Retry,
    Run,
    num_texts,
    text_params,
)
from xrec.generate.engine_report import EngineReport

Requests = Sequence[tuple[Sequence[int], RequestParams]]


@dataclass(eq=False)
class _List:
    """A closed list: the places that wait, the places at work by request id, and what has ended."""

    requests: Requests
    waiting: list[int]
    at_work: dict[int, int] = field(default_factory=dict)
    texts_left: dict[int, int] = field(default_factory=dict)
    ended: deque[Completion] = field(default_factory=deque)
    told: set[tuple[int, int]] = field(default_factory=set)
    error: Exception | None = None

    @property
    def num_texts(self) -> int:
        """The number of texts that all requests together ask for."""
        return sum(num_texts(params) for _, params in self.requests)

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to compute."""
        return not self.waiting and not self.at_work

    def enter(self, run: Run) -> None:
        """Add the requests that wait to the run."""
        for place in self.waiting:
            request_id = run.add(*self.requests[place])
            self.at_work[request_id] = place
            self.texts_left[request_id] = num_texts(self.requests[place][1])
        self.waiting = []

    def leave(self, run: Run) -> None:
        """Take the requests at work out of the run; they wait again."""
        for request_id in self.at_work:
            run.cancel(request_id)
        self.waiting, self.at_work = sorted([*self.waiting, *self.at_work.values()]), {}

    def tell(self, completion: Completion) -> None:
        """Hand on a completion of the run, unless that text was told before a failed step."""
        place = self.at_work[completion.index]
        self.texts_left[completion.index] -= 1
        if not self.texts_left[completion.index]:
            del self.at_work[completion.index]
        if (place, completion.number) not in self.told:
            self.told.add((place, completion.number))
            self.ended.append(replace(completion, index=place))


class SharedRun:
    """Lets threads share `run`."""

    def __init__(self, run: Run):
        self.run = run
        self._changed = threading.Condition()
        self._is_stepping = False
        self._lists: list[_List] = []
        self._alone: deque[_List] = deque()
        """Lists of a failed step; only the first one may be at work, and no other list."""
        self._cancelled: list[int] = []

    def complete(self, requests: Requests) -> Iterator[Completion]:
        """See `Engine.complete`.

        Raises the error of a step that fails with these requests alone. If the iterator is closed,
        what is left of its requests is cancelled.
        """
        mine = _List(requests, list(range(len(requests))))
        with self._changed:
            self._lists.append(mine)
        try:
            for _ in range(mine.num_texts):
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
            advances = self.run.step()
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
            one.enter(self.run)

    def _tell(self, advance: Advance) -> None:
        if advance.completion is not None:
            for one in self._lists:
                if advance.request_id in one.at_work:
                    one.tell(advance.completion)

    def _fail(self, error: Exception) -> None:
        """Take all requests back; a list that was alone fails, others are done again alone."""
        at_work = [one for one in self._lists if one.at_work]
        for one in at_work:
            one.leave(self.run)
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
            self.run.cancel(request_id)
        self._cancelled = []


class RunEngine:
    """An `Engine` over a run."""

    def __init__(self, run: Run):
        self.run = run
        self._shared = SharedRun(run)

    @property
    def report(self) -> EngineReport:
        """What all calls since the last `take_report` cost."""
        return self.run.report

    def take_report(self) -> EngineReport:
        """`report`, which then begins anew."""
        return self.run.take_report()

    def complete(self, requests: Requests) -> Iterator[Completion]:
        """See `Engine`."""
        return self._shared.complete(requests)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: DecodingConfig,
        is_refused: Callable[[Completion], bool] | None = None,
    ) -> Iterator[Completion]:
        """See `Engine`."""
        params, second = text_params(decoding), decoding.second_try
        if is_refused is None or second is None:
            return self._shared.complete([(prompt, params) for prompt in prompts])
        return self._shared.complete(
            [
                (prompt, replace(params, retry=_retry_of(place, is_refused, second)))
                for place, prompt in enumerate(prompts)
            ]
        )


def _retry_of(
    place: int, is_refused: Callable[[Completion], bool], second: DecodingConfig
) -> Retry:
    """The retry of the prompt at `place`, which is what `is_refused` is told."""
    return Retry(
        lambda completion: is_refused(replace(completion, index=place)),
        temperature=second.temperature,
        seed=second.seed,
    )
