"""Threads that share a run: each gets its own completions, errors go to whom they belong."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from xrec.generate.engine import Advance, Completion, RequestParams, TextParams
from xrec.generate.shared_run import SharedRun

PARAMS = TextParams(max_new_tokens=3)
SEVERAL = TextParams(temperature=1.0, num_texts=3)


@dataclass
class ToyRun:
    """Writes a prompt's first token, number by number; a step with a `deadly` prompt raises.

    A request takes as many steps as its prompt has tokens, and its texts end one a step from then
    on.
    """

    deadly: int = -1
    at_work: dict[int, tuple[list[int], RequestParams, int]] = field(default_factory=dict)
    added: list[int] = field(default_factory=list)
    rows: list[set[int]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    busy: threading.Lock = field(default_factory=threading.Lock)

    def add(self, prompt: Sequence[int], params: RequestParams) -> int:
        assert self.busy.acquire(blocking=False)
        self.added.append(prompt[0])
        self.at_work[len(self.added)] = (list(prompt), params, 0)
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
            self.rows.append({prompt[0] for prompt, _, _ in self.at_work.values()})
            if self.deadly in self.rows[-1]:
                raise RuntimeError("no memory")
            return list(self._advances())
        finally:
            self.busy.release()

    def _advances(self) -> Iterator[Advance]:
        for request_id, (prompt, params, age) in list(self.at_work.items()):
            number = age - len(prompt) + 1
            if number >= 0:
                ended = Completion(request_id, [prompt[0]], "stop", number=number)
                yield Advance(request_id, [prompt[0]], ended, number)
            if number + 1 == getattr(params, "num_texts", 1):
                del self.at_work[request_id]
            else:
                self.at_work[request_id] = (prompt, params, age + 1)


def lists(first: int, count: int, length: int = 4) -> list[tuple[list[int], RequestParams]]:
    """Requests whose prompts begin with `first`, `first` + 1 and so on."""
    return [([first + place] * (1 + place % length), PARAMS) for place in range(count)]


def test_list_gets_each_completion_once_as_it_ends() -> None:
    shared = SharedRun(ToyRun())  # type: ignore[arg-type]
    requests = [*lists(0, 5), ([9, 9], SEVERAL)]
    ended = list(shared.complete(requests))
    assert sorted((one.index, one.number) for one in ended) == [
        *((index, 0) for index in range(5)),
        *((5, number) for number in range(3)),
    ]
    assert all(one.token_ids == requests[one.index][0][:1] for one in ended)
    assert [one.index for one in ended][:2] == [0, 4]  # the shortest ones first


def test_no_requests_yield_nothing_and_compute_nothing() -> None:
    run = ToyRun()
    assert list(SharedRun(run).complete([])) == []  # type: ignore[arg-type]
    assert run.rows == []


def test_list_that_comes_later_enters_before_the_first_has_ended() -> None:
    run = ToyRun()
    shared = SharedRun(run)  # type: ignore[arg-type]
    first, second = shared.complete(lists(0, 8)), shared.complete(lists(100, 8))
    next(first)
    next(second)
    assert any({0, 100} & row and max(row) >= 100 and min(row) < 100 for row in run.rows)
    assert {one.index for one in second} | {0, 4} >= set(range(8))
    assert len(list(first)) == 7


def test_lists_of_many_threads_get_what_is_theirs() -> None:
    run = ToyRun()
    shared = SharedRun(run)  # type: ignore[arg-type]

    def work(first: int) -> list[int]:
        completions = shared.complete(lists(first, 20))
        return [one.token_ids[0] for one in sorted(completions, key=lambda one: one.index)]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(0, 8000, 1000)))
    assert found == [[first + place for place in range(20)] for first in range(0, 8000, 1000)]
    assert not run.at_work


def test_closed_iterator_cancels_what_is_left() -> None:
    run = ToyRun()
    shared = SharedRun(run)  # type: ignore[arg-type]
    completions = shared.complete(lists(0, 8))
    next(completions)
    assert run.at_work
    completions.close()  # type: ignore[attr-defined]
    assert not run.at_work
    assert len(list(shared.complete(lists(50, 3)))) == 3


def test_error_of_a_list_alone_is_raised_and_the_run_goes_on() -> None:
    run = ToyRun(deadly=2)
    shared = SharedRun(run)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="no memory"):
        list(shared.complete(lists(0, 5)))
    assert not run.at_work
    assert len(list(shared.complete(lists(10, 5)))) == 5


def test_error_is_raised_by_the_list_that_causes_it_and_the_others_lose_nothing() -> None:
    run = ToyRun(deadly=1003)
    shared = SharedRun(run)  # type: ignore[arg-type]
    begun = threading.Barrier(3)

    def work(first: int) -> list[tuple[int, int]] | str:
        begun.wait()
        try:
            requests = [*lists(first, 12), ([first + 500, 0], SEVERAL)]
            return sorted((one.index, one.number) for one in shared.complete(requests))
        except RuntimeError as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(work, [0, 1000, 2000]))
    whole = [*((index, 0) for index in range(12)), *((12, number) for number in range(3))]
    assert found == [whole, "no memory", whole]
    assert not run.at_work


def test_lists_of_a_failed_step_are_done_again_one_at_a_time() -> None:
    run = ToyRun()
    shared = SharedRun(run)  # type: ignore[arg-type]
    iterators = [shared.complete(lists(first, 6)) for first in (0, 100, 200)]
    told = [[next(iterator)] for iterator in iterators]
    run.deadly, failed = 103, len(run.rows)
    told[0] += iterators[0]  # whoever asks computes for all
    assert sorted(one.index for one in told[0]) == list(range(6))
    with pytest.raises(RuntimeError, match="no memory"):
        told[1] += iterators[1]
    told[2] += iterators[2]
    assert sorted(one.index for one in told[2]) == list(range(6))
    assert {token // 100 for token in run.rows[failed]} == {0, 1, 2}
    assert all(len({token // 100 for token in row}) == 1 for row in run.rows[failed + 1 :])
