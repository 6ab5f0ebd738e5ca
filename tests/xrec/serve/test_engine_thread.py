"""Requests of an event loop on the engine's own thread, in any order of comings and goings."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

import pytest

from tests.toy import NUM_USERS
from tests.xrec.generate.builtin.toy_cores import V, make_core, make_engine, make_model
from xrec.config.decoding import DecodingConfig
from xrec.errors import ModelError
from xrec.generate.engine import Advance, TextParams
from xrec.serve.engine_thread import EngineThread

GREEDY, LONG = TextParams(max_new_tokens=10), TextParams(max_new_tokens=900)
PROMPTS = [
    [5, 6, 7, V + user, *range(8, 8 + item), V + NUM_USERS + item]
    for user in range(NUM_USERS)
    for item in range(4)
]


@pytest.fixture
def engine() -> Iterator[EngineThread]:
    # Without a stop token a text's length is known.
    made = EngineThread(make_core(make_model(), [], max_rows=4))
    yield made
    ended(made)


def ended(engine: EngineThread) -> None:
    engine.stop()
    engine._thread.join(30)
    assert not engine._thread.is_alive()


async def text_of(engine: EngineThread, prompt: Sequence[int]) -> list[int]:
    with engine.request(prompt, GREEDY) as request:
        return (await request.latest()).token_ids


def texts_of(engine: EngineThread, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    async def gathered() -> list[list[int]]:
        return list(await asyncio.gather(*(text_of(engine, prompt) for prompt in prompts)))

    return asyncio.run(gathered())


def test_requests_at_once_get_the_tokens_of_the_closed_list(engine: EngineThread) -> None:
    closed = make_engine(make_model(), []).generate(PROMPTS, DecodingConfig(max_new_tokens=10))
    expected = [one.token_ids for one in sorted(closed, key=lambda one: one.index)]
    assert texts_of(engine, PROMPTS) == expected


async def one_token(engine: EngineThread) -> None:
    with engine.request(PROMPTS[0], LONG, with_deltas=True) as request:
        assert len((await request.latest()).token_ids) < 900


async def no_token(engine: EngineThread) -> None:
    with engine.request(PROMPTS[0], LONG):
        pass


@pytest.mark.parametrize("work", [one_token, no_token])
def test_request_that_is_left_is_computed_no_further(
    engine: EngineThread, work: Callable[[EngineThread], Awaitable[None]]
) -> None:
    async def left() -> None:
        await work(engine)

    asyncio.run(left())
    assert len(texts_of(engine, PROMPTS[1:2])[0]) == 10
    ended(engine)
    assert engine.core.report.num_decoded_tokens < 800


def test_stop_lets_what_is_at_work_end_token_by_token(engine: EngineThread) -> None:
    async def lengths() -> list[int]:
        with engine.request(PROMPTS[0], GREEDY, with_deltas=True) as request:
            engine.stop()
            found: list[int] = []
            while not found or found[-1] < 10:
                found.append(len((await request.latest()).token_ids))
            assert request.first_token_at > 0
            return found

    found = asyncio.run(lengths())
    assert found == sorted(set(found))
    assert len(found) > 1


def test_failed_step_is_told_to_all_who_wait_and_to_all_who_come(
    engine: EngineThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[Advance]:
        raise RuntimeError("no memory")

    monkeypatch.setattr(engine.core, "step", broken)
    for prompts in (PROMPTS[:3], PROMPTS[:1]):
        with pytest.raises(ModelError, match="the model failed: no memory"):
            texts_of(engine, prompts)
    assert isinstance(engine.failure, RuntimeError)
