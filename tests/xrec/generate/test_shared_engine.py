"""Callers that share a core: each gets its own completions, and an error goes to all at work.

Callers look at their texts while the core goes on, and ask for others.
"""

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from xrec.generate.engine import Advance, Completion, RequestParams, TextParams
from xrec.generate.shared_engine import EngineRequest, SharedEngine

PARAMS = TextParams(max_new_tokens=3)


@dataclass
class ToyCore:
    """A core whose text is the prompt's first token, after as many steps as the prompt has tokens.

    A step with a `deadly` prompt raises an error, and so does canceling the prompt `fixed`. Steps
    wait until `may_step` is set; then `is_held` is set. If `is_streaming`, each step of a text is
    reported, else the first and the last one.
    """

    deadly: int = -1
    error: BaseException = field(default_factory=lambda: RuntimeError("no memory"))
    fixed: int = -1
    is_streaming: bool = False
    at_work: dict[int, tuple[list[int], int]] = field(default_factory=dict)
    added: list[int] = field(default_factory=list)
    rows: list[set[int]] = field(default_factory=list)
    keeps: dict[int, bool] = field(default_factory=dict)
    kept: set[int] = field(default_factory=set)
    num_found: int = 0
    busy: threading.Lock = field(default_factory=threading.Lock)
    may_step: threading.Event = field(default_factory=threading.Event)
    is_held: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.may_step.set()

    @property
    def num_rows(self) -> int:
        return len(self.at_work)

    def add(self, prompt: Sequence[int], params: RequestParams, after: int | None = None) -> int:
        if not prompt:
            raise ValueError("empty")
        assert self.busy.acquire(blocking=False)
        self.num_found += after in self.kept
        self.kept.discard(after or 0)
        self.keeps[len(self.added) + 1] = isinstance(params, TextParams) and params.keeps_prompt
        self.added.append(prompt[0])
        self.at_work[len(self.added)] = (list(prompt), 0)
        self.busy.release()
        return len(self.added)

    def cancel(self, request_id: int) -> None:
        assert self.busy.acquire(blocking=False)
        prompt, _ = self.at_work.pop(request_id, ([0], 0))
        self.kept.discard(request_id)
        self.busy.release()
        if prompt[0] == self.fixed:
            raise RuntimeError("cannot cancel")

    def step(self) -> list[Advance]:
        while not self.may_step.wait(0.01):
            self.is_held.set()
        assert self.busy.acquire(blocking=False), "one thread at a time"
        try:
            self.rows.append({prompt[0] for prompt, _ in self.at_work.values()})
            if self.deadly in self.rows[-1]:
                raise self.error
            return list(self._advances())
        finally:
            self.busy.release()

    def _advances(self) -> Iterator[Advance]:
        for request_id, (prompt, age) in list(self.at_work.items()):
            if age + 1 == len(prompt):
                del self.at_work[request_id]
                self.kept |= {request_id} if self.keeps[request_id] else set()
                yield Advance(request_id, [prompt[0]], Completion(request_id, [prompt[0]], "stop"))
            else:
                self.at_work[request_id] = (prompt, age + 1)
                if self.is_streaming or not age:
                    yield Advance(request_id, prompt[:1])


def wait_until_idle(shared: SharedEngine) -> None:
    while shared._has_thread:
        time.sleep(0.001)


def lists(first: int, count: int, length: int = 4) -> list[tuple[list[int], RequestParams]]:
    """Return requests whose prompts start with `first`, `first` + 1 and so on."""
    return [([first + place] * (1 + place % length), PARAMS) for place in range(count)]


def test_lists_of_many_threads_get_their_own_completions():
    core = ToyCore()
    shared = SharedEngine(core)

    def work(first: int) -> list[int]:
        completions = shared.complete(lists(first, 20))
        return [one.token_ids[0] for one in sorted(completions, key=lambda one: one.index)]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(0, 8000, 1000)))
    assert found == [[first + place for place in range(20)] for first in range(0, 8000, 1000)]
    assert not core.at_work


def test_closed_iterator_cancels_what_is_left_and_the_thread_ends():
    core = ToyCore()
    shared = SharedEngine(core)
    completions = shared.complete([*lists(0, 1), ([1] * 10**6, PARAMS)])  # the second never ends
    next(completions)
    assert core.at_work
    completions.close()  # type: ignore[attr-defined]
    wait_until_idle(shared)
    assert not core.at_work
    assert len(list(shared.complete(lists(50, 3)))) == 3


def test_request_that_cannot_be_added_fails_only_its_list():
    shared = SharedEngine(ToyCore())
    with pytest.raises(ValueError, match="empty"):
        list(shared.complete([([], PARAMS), *lists(0, 5)]))
    assert len(list(shared.complete(lists(10, 5)))) == 5
    assert list(shared.complete([])) == []
    assert shared.failure is None


@pytest.mark.parametrize("error", [RuntimeError("no memory"), SystemExit("no memory")])
def test_error_of_a_step_is_raised_by_all_lists_at_work_and_the_engine_goes_on(error):
    core = ToyCore(deadly=103, error=error)
    shared, told = SharedEngine(core), list[Any]()
    with shared.at_work([EngineRequest([1] * 10**6, PARAMS, told.append)]):
        with pytest.raises(RuntimeError, match="no memory"):
            list(shared.complete(lists(100, 6)))
        wait_until_idle(shared)
    assert "no memory" in str(told[-1])
    assert isinstance(shared.failure, RuntimeError)
    assert not core.at_work
    assert len(list(shared.complete(lists(10, 5)))) == 5


def test_error_in_cancel_reaches_all_callers_and_no_command_is_lost():
    """Callers whose requests arrive with the cancellation do not wait forever."""
    core = ToyCore(fixed=7)
    shared, told = SharedEngine(core), list[Any]()
    stuck = EngineRequest([7] * 10**6, PARAMS, told.append)
    other = EngineRequest([8] * 10**6, PARAMS, told.append)
    with ThreadPoolExecutor(1) as pool, shared.at_work([other]):
        with shared.at_work([stuck]):
            while len(core.added) < 2:
                time.sleep(0.001)
            core.may_step.clear()
            core.is_held.wait()
        late = pool.submit(list, shared.complete(lists(0, 3)))
        while len(shared._commands) < 2:
            time.sleep(0.001)
        core.may_step.set()
        assert str(late.exception()) == "cannot cancel"
    wait_until_idle(shared)
    assert [str(each) for each in told if isinstance(each, Exception)] == ["cannot cancel"]
    assert str(shared.failure) == "cannot cancel"
    assert not core.at_work
    assert len(list(shared.complete(lists(10, 5)))) == 5


def test_steps_go_on_while_a_caller_checks_its_text():
    """The caller inspects its text until its other request has advanced ten steps."""
    core = ToyCore()

    def again(_: Completion) -> None:
        num_steps = len(core.rows)
        while len(core.rows) < num_steps + 10:
            time.sleep(0.001)

    completions = SharedEngine(core).complete([([1], PARAMS), ([2] * 10**6, PARAMS)], again)
    assert next(completions).index == 0
    completions.close()  # type: ignore[attr-defined]


def test_refused_texts_are_drawn_again_from_kept_prompts():
    core, num_asked = ToyCore(), [0] * 20
    shared = SharedEngine(core)
    params = replace(PARAMS, keeps_prompt=True)

    def again(completion: Completion) -> TextParams | None:
        num_asked[completion.index] += 1
        return params if num_asked[completion.index] <= completion.index % 3 else None

    requests = [([100 + place] * (1 + place % 4), params) for place in range(20)]
    found = sorted(shared.complete(requests, again), key=lambda one: one.index)
    assert [one.token_ids for one in found] == [[100 + place] for place in range(20)]
    assert num_asked == [1 + place % 3 for place in range(20)]
    assert sorted(core.added) == sorted(
        100 + place for place in range(20) for _ in range(1 + place % 3)
    )
    assert core.num_found == sum(place % 3 for place in range(20))
    wait_until_idle(shared)
    assert not core.kept


def test_error_in_a_caller_stays_its_own_and_releases_its_prompts():
    core = ToyCore()
    shared = SharedEngine(core)
    params = replace(PARAMS, keeps_prompt=True)
    with pytest.raises(ZeroDivisionError):
        list(shared.complete([([1], params), ([2] * 10**6, params)], lambda _: 1 // 0))
    wait_until_idle(shared)
    assert not core.at_work
    assert not core.kept
    assert shared.failure is None


@pytest.mark.parametrize("is_streaming", [True, False])
def test_slow_text_times_out_whether_or_not_the_core_reports_its_tokens(is_streaming):
    """A step takes a second. A text of 7 steps ends in the step in which it would be canceled."""
    core, seconds = ToyCore(is_streaming=is_streaming), itertools.count()
    shared = SharedEngine(core, row_seconds=5, clock=lambda: float(next(seconds)))
    requests = [([length] * length, PARAMS) for length in (1, 7, 8, 10**6)]
    found = sorted(shared.complete(requests), key=lambda one: one.index)
    reasons = [one.failure and one.failure.reason for one in found]
    assert reasons == [None, None, "timeout", "timeout"]
    assert not core.at_work


def test_time_of_a_text_includes_its_earlier_drafts():
    """Each text takes three steps, and each step a second."""
    core, seconds, num_asked = ToyCore(), itertools.count(), [0]
    shared = SharedEngine(core, row_seconds=7, clock=lambda: float(next(seconds)))

    def again(completion: Completion) -> TextParams | None:
        num_asked[0] += 1
        return None if completion.failure else PARAMS

    (found,) = shared.complete([([1] * 3, PARAMS)], again)
    assert (found.failure and found.failure.reason, num_asked[0]) == ("timeout", 4)
