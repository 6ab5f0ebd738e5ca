"""Threads that share a core: each gets its own completions, errors go to whom they belong."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from xrec.generate.engine import Advance, Completion, RequestParams, TextParams
from xrec.generate.shared_engine import SharedEngine

PARAMS = TextParams(max_new_tokens=3)


@dataclass
class ToyCore:
    """Writes a prompt's first token, number by number; a step with a `deadly` prompt raises.

    A request takes as many steps as its prompt has tokens.
    """

    deadly: int = -1
    at_work: dict[int, tuple[list[int], int]] = field(default_factory=dict)
    added: list[int] = field(default_factory=list)
    rows: list[set[int]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    busy: threading.Lock = field(default_factory=threading.Lock)

    def add(self, prompt: Sequence[int], params: RequestParams) -> int:
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
        assert self.busy.acquire(blocking=False), "one thread at a time"
        try:
            self.threads.add(threading.get_ident())
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


def shared_by(core: ToyCore) -> SharedEngine:
    return SharedEngine(core)


def lists(first: int, count: int, length: int = 4) -> list[tuple[list[int], RequestParams]]:
    """Requests whose prompts begin with `first`, `first` + 1 and so on."""
    return [([first + place] * (1 + place % length), PARAMS) for place in range(count)]


def test_list_gets_each_completion_once_as_it_ends():
    shared = shared_by(ToyCore())
    requests = lists(0, 5)
    ended = list(shared.complete(requests))
    assert sorted(one.index for one in ended) == list(range(5))
    assert all(one.token_ids == requests[one.index][0][:1] for one in ended)
    assert [one.index for one in ended][:2] == [0, 4]  # the shortest ones first


def test_list_that_comes_later_enters_before_the_first_has_ended():
    core = ToyCore()
    shared = shared_by(core)
    first, second = shared.complete(lists(0, 8)), shared.complete(lists(100, 8))
    next(first)
    next(second)
    assert any({0, 100} & row and max(row) >= 100 and min(row) < 100 for row in core.rows)
    assert {one.index for one in second} | {0, 4} >= set(range(8))
    assert len(list(first)) == 7


def test_lists_of_many_threads_get_what_is_theirs():
    core = ToyCore()
    shared = shared_by(core)

    def work(first: int) -> list[int]:
        completions = shared.complete(lists(first, 20))
        return [one.token_ids[0] for one in sorted(completions, key=lambda one: one.index)]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(0, 8000, 1000)))
    assert found == [[first + place for place in range(20)] for first in range(0, 8000, 1000)]
    assert not core.at_work


def test_closed_iterator_cancels_what_is_left():
    core = ToyCore()
    shared = shared_by(core)
    completions = shared.complete(lists(0, 8))
    next(completions)
    assert core.at_work
    completions.close()
    assert not core.at_work
    assert len(list(shared.complete(lists(50, 3)))) == 3


def test_error_is_raised_by_the_list_that_causes_it_and_the_others_lose_nothing():
    core = ToyCore(deadly=1003)
    shared = shared_by(core)
    begun = threading.Barrier(3)

    def work(first: int) -> list[int] | str:
        begun.wait()
        try:
            return sorted(one.index for one in shared.complete(lists(first, 12)))
        except RuntimeError as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(work, [0, 1000, 2000]))
    assert found == [list(range(12)), "no memory", list(range(12))]
    assert not core.at_work


def test_lists_of_a_failed_step_are_done_again_one_at_a_time():
    core = ToyCore()
    shared = shared_by(core)
    iterators = [shared.complete(lists(first, 6)) for first in (0, 100, 200)]
    told = [[next(iterator)] for iterator in iterators]
    core.deadly, failed = 103, len(core.rows)
    told[0] += iterators[0]  # whoever asks computes for all
    assert sorted(one.index for one in told[0]) == list(range(6))
    with pytest.raises(RuntimeError, match="no memory"):
        told[1] += iterators[1]
    told[2] += iterators[2]
    assert sorted(one.index for one in told[2]) == list(range(6))
    assert {token // 100 for token in core.rows[failed]} == {0, 1, 2}
    assert all(len({token // 100 for token in row}) == 1 for row in core.rows[failed + 1 :])
