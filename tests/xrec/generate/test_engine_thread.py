"""The model's thread: requests from many threads, cancelled requests, and a failing step."""

import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from transformers import LlamaForCausalLM

from tests.toy import NUM_USERS
from tests.xrec.generate.builtin.toy_cores import V, make_core, make_engine, make_model
from xrec.config.decoding import DecodingConfig
from xrec.generate.engine import Advance, Completion, TextParams
from xrec.generate.engine_thread import EngineThread

GREEDY = TextParams(max_new_tokens=10)
LONG = TextParams(max_new_tokens=900)
PROMPTS = [
    [5, 6, 7, V + user, *range(8, 8 + item), V + NUM_USERS + item]
    for user in range(NUM_USERS)
    for item in range(4)
]


@pytest.fixture
def model() -> LlamaForCausalLM:
    return make_model()


@pytest.fixture
def engine(model: LlamaForCausalLM) -> Iterator[EngineThread]:
    # Without a stop token a text's length is known.
    made = EngineThread(make_core(model, [], max_rows=4))
    yield made
    made.stop()
    made.join(30)


def complete(engine: EngineThread, prompt: Sequence[int]) -> Completion:
    ended: queue.Queue[Completion | BaseException] = queue.Queue()

    def listener(advance: Advance) -> None:
        if advance.completion is not None:
            ended.put(advance.completion)

    engine.submit(prompt, GREEDY, listener=listener, on_failure=ended.put)
    result = ended.get(timeout=60)
    if isinstance(result, BaseException):
        raise result
    return result


def test_requests_of_many_threads_get_the_tokens_of_the_closed_list(
    model: LlamaForCausalLM, engine: EngineThread
) -> None:
    with ThreadPoolExecutor(8) as pool:
        live = list(pool.map(lambda prompt: complete(engine, prompt).token_ids, PROMPTS))
    engine.stop()
    engine.join(30)
    closed = make_engine(model, []).generate(PROMPTS, DecodingConfig(max_new_tokens=10))
    assert live == [one.token_ids for one in sorted(closed, key=lambda one: one.index)]


def test_cancelled_request_stops_and_frees_its_row(engine: EngineThread) -> None:
    told: queue.Queue[Advance] = queue.Queue()
    ticket = engine.submit(PROMPTS[0], LONG, listener=told.put, on_failure=pytest.fail)
    for _ in range(3):
        told.get(timeout=60)
    engine.cancel(ticket)
    assert engine.call(lambda: engine.core.num_rows).result(60) == 0
    told.queue.clear()
    complete(engine, PROMPTS[1])
    assert told.empty()


def test_request_cancelled_before_it_was_taken_in_is_never_computed(engine: EngineThread) -> None:
    gate = threading.Event()
    engine.call(lambda: gate.wait(60))
    ticket = engine.submit(
        PROMPTS[0],
        LONG,
        listener=lambda advance: pytest.fail("told"),
        on_failure=pytest.fail,
    )
    engine.cancel(ticket)
    gate.set()
    assert engine.call(lambda: engine.core.num_rows + engine.core.num_waiting).result(60) == 0


def test_call_runs_while_others_decode_and_gives_its_exception_to_the_caller(
    engine: EngineThread,
) -> None:
    told: queue.Queue[Advance] = queue.Queue()
    ticket = engine.submit(PROMPTS[0], LONG, listener=told.put, on_failure=pytest.fail)
    told.get(timeout=60)
    assert engine.call(lambda: threading.current_thread().name).result(60) == "xrec-model"
    assert engine.call(lambda: engine.core.num_rows).result(60) == 1
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 // 0).result(60)
    engine.cancel(ticket)
    assert engine.failure is None


def test_stop_lets_what_is_at_work_end(engine: EngineThread) -> None:
    ended: queue.Queue[Advance] = queue.Queue()
    engine.submit(PROMPTS[0], GREEDY, listener=ended.put, on_failure=pytest.fail)
    engine.stop()
    engine.join(60)
    assert [len(ended.get_nowait().token_ids) for _ in range(10)] == list(range(1, 11))


def test_failed_step_is_told_to_all_who_wait_and_to_all_who_come(
    engine: EngineThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[Advance]:
        raise RuntimeError("no memory")

    monkeypatch.setattr(engine.core, "step", broken)
    with pytest.raises(RuntimeError, match="no memory"):
        complete(engine, PROMPTS[0])
    with pytest.raises(RuntimeError, match="no memory"):
        complete(engine, PROMPTS[1])
    assert isinstance(engine.failure, RuntimeError)


def test_what_comes_after_the_end_fails_at_once(engine: EngineThread) -> None:
    engine.stop()
    engine.join(30)
    with pytest.raises(RuntimeError, match="was stopped"):
        complete(engine, PROMPTS[0])
    with pytest.raises(RuntimeError, match="was stopped"):
        engine.call(lambda: None).result(timeout=10)
