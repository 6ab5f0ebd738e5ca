"""Callers that share a core: each gets its own completions, and an error goes to all at work."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from xrec.generate.engine import Advance, Completion, RequestParams, TextParams
from xrec.generate.shared_engine import SharedEngine

PARAMS = TextParams(max_new_tokens=3)


@dataclass
class ToyCore:
    """Writes a prompt's first token, number by number; a step with a `deadly` prompt raises.

    A request takes as many steps as its prompt has tokens. Steps wait until `may_step` is set.
    """

    deadly: int = -1
    at_work: dict[int, tuple[list[int], int]] = field(default_factory=dict)
    added: list[int] = field(default_factory=list)
    rows: list[set[int]] = field(default_factory=list)
    busy: threading.Lock = field(default_factory=threading.Lock)
    may_step: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.may_step.set()

    @property
    def is_idle(self) -> bool:
        return not self.at_work

    def add(self, prompt: Sequence[int], params: RequestParams) -> int:
        if not prompt:
            raise ValueError("empty")
        assert self.busy.acquire(blocking=False)
        self.added.append(prompt[0])
        self.at_work[len(self.added)] = (list(prompt), 0)
        self.busy.release()
        return len(self.added)

    def cancel(self, request_id: int) -> None:
        assert self.busy.acquire(blocking=False)
        self.at_work.pop(request_id, None)
        self.busy.release()

    def step(self) -> list[Advance]:
        self.may_step.wait()
        assert self.busy.acquire(blocking=False), "one thread at a time"
        try:
            self.rows.append({prompt[0] for prompt, _ in self.at_work.values()})
            if self.deadly in self.rows[-1]:
                raise RuntimeError("no memory")
            return list(self._advances())
        finally:
            self.busy.release()

    def _advances(self) -> Iterator[Advance]:
        for request_id, (prompt, age) in list(self.at_work.items()):
            if age + 1 == len(prompt):
                del self.at_work[request_id]
                yield Advance(request_id, [prompt[0]], Completion(request_id, [prompt[0]], "stop"))
            else:
                self.at_work[request_id] = (prompt, age + 1)


def wait_until_idle(shared: SharedEngine) -> None:
    while shared._has_thread:
        time.sleep(0.001)


def lists(first: int, count: int, length: int = 4) -> list[tuple[list[int], RequestParams]]:
    """Requests whose prompts begin with `first`, `first` + 1 and so on."""
    return [([first + place] * (1 + place % length), PARAMS) for place in range(count)]


def test_no_requests_yield_nothing_and_compute_nothing():
    core = ToyCore()
    assert list(SharedEngine(core).complete([])) == []
    assert core.rows == []


def run_together(
    shared: SharedEngine, *together: list[tuple[list[int], RequestParams]]
) -> list[Any]:
    """The completions or the error of each list; the second one comes within the first step."""
    core: Any = shared.core
    core.may_step.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(list, shared.complete(together[0]))
        while not core.added:
            time.sleep(0.001)
        second = pool.submit(list, shared.complete(together[1]))
        while not shared._commands:
            time.sleep(0.001)
        core.may_step.set()
    return [each.exception() or each.result() for each in (first, second)]


def test_list_that_comes_later_enters_before_the_first_has_ended():
    core = ToyCore()
    for found in run_together(SharedEngine(core), lists(0, 8), lists(100, 8)):
        assert sorted(one.index for one in found) == list(range(8))
    assert {1, 101} <= core.rows[1]


def test_lists_of_many_threads_get_what_is_theirs():
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


def test_request_that_cannot_be_added_is_an_error_of_its_list_alone():
    shared = SharedEngine(ToyCore())
    with pytest.raises(ValueError, match="empty"):
        list(shared.complete([([], PARAMS), *lists(0, 5)]))
    assert len(list(shared.complete(lists(10, 5)))) == 5
    assert shared.failure is None


def test_error_of_a_step_is_raised_by_all_lists_at_work_and_the_run_goes_on():
    core = ToyCore(deadly=103)
    shared = SharedEngine(core)
    found = run_together(shared, lists(0, 6), lists(100, 6))
    assert list(map(str, found)) == ["no memory"] * 2
    assert isinstance(shared.failure, RuntimeError)
    assert not core.at_work
    assert len(list(shared.complete(lists(10, 5)))) == 5
