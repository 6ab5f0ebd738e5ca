"""No stored reply is bought again, whoever dies, and what may have been paid twice is counted."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.errors import raises
from tests.world.endpoint import Answer, Asked, stub_endpoint
from tests.world.program import wait_until
from tests.xrec.text.asked import PEOPLE, endpoint_model, prompts, replies_in, right
from xrec.config import JobConfig, SamplingConfig
from xrec.errors import EndpointError, Failure
from xrec.storage import put_on_list
from xrec.text import Asker, Reply, Usage
from xrec.text.reply_store import ReplyStore, forget_replies, open_replies

PAID = Usage(10, 2, 1)


def _buy(store: ReplyStore, *names: str, user: str = "u") -> None:
    for name in names:
        assert store.claim(store.key(name)) is None
        store.settle(store.key(name), [user], Reply(0, name, PAID))


def _found(store: ReplyStore, name: str) -> Reply | None:
    """The stored reply, or None; a claim that finds none is given back."""
    key = store.key(name)
    if (future := store.claim(key)) is not None:
        return future.result(0)
    store.settle(key, [], KeyError())
    return None


def _rows(folder: Path) -> list[str]:
    return sorted(row for file in folder.rglob("*.parquet") for row in _raw(file))


def _raw(file: Path) -> list[str]:
    return pq.read_table(file)["raw"].to_pylist()


def test_stored_reply_costs_its_own_run_once_and_others_nothing(tmp_path):
    store = replies_in(tmp_path, "run-a")
    _buy(store, "x")
    assert _found(store, "x") == Reply(0, "x", Usage())  # its usage is known
    store.flush()
    again = replies_in(tmp_path, "run-a")
    assert [_found(again, "x").usage for _ in range(2)] == [PAID, Usage()]
    assert _found(replies_in(tmp_path, "run-b"), "x") == Reply(0, "x", Usage())
    assert _found(replies_in(tmp_path, "run-a", attempt=1), "x") is None


def test_refusal_is_stored_and_a_failure_without_a_reply_is_not(tmp_path):
    store = replies_in(tmp_path)
    refused = Reply(0, "", PAID, failure=Failure("refused", "no way"))
    for name, reply in (("x", refused), ("y", Reply(0, "", PAID, failure=Failure("timeout", "")))):
        store.claim(store.key(name))
        store.settle(store.key(name), ["u"], reply)
    store.flush()
    assert _found(replies_in(tmp_path), "x").failure == Failure("refused", "no way")
    assert _found(replies_in(tmp_path), "y") is None


def test_threads_that_ask_for_the_same_reply_buy_it_once(tmp_path):
    store = replies_in(tmp_path)
    assert store.claim(store.key("x")) is None
    second, lost = store.claim(store.key("x")), store.key("y")
    assert not second.done()
    store.settle(store.key("x"), ["u"], Reply(0, "x", PAID))
    assert second.result(0).raw == "x"
    assert store.claim(lost) is None
    waiting = store.claim(lost)
    store.settle(lost, [], RuntimeError("broken"))
    with raises(EndpointError, "no_reply"):
        waiting.result(0)


@pytest.mark.parametrize("num_stored", [0, 3])
def test_requests_of_a_dead_process_are_counted_once_and_at_most_those_without_a_reply(
    tmp_path, num_stored
):
    dead = replies_in(tmp_path, at_once=2)
    _buy(dead, *map(str, range(num_stored)))
    dead.claim(dead.key("a"))
    dead.claim(dead.key("b"))
    dead.flush()  # and then nothing more is heard of it
    store = replies_in(tmp_path, at_once=2)
    _buy(store, "a", "b")
    assert store.take_maybe_paid_twice() == 2
    _buy(store, *map(str, range(num_stored, 20)))
    assert store.take_maybe_paid_twice() <= 6  # no more than its limit, doubled once
    store.flush()
    other = replies_in(tmp_path)
    _buy(other, "c")
    assert other.take_maybe_paid_twice() == 0  # the second one ended with all replies stored


def test_process_that_dies_at_its_first_request_has_left_a_sign(tmp_path):
    dead = replies_in(tmp_path)
    dead.claim(dead.key("a"))
    store = replies_in(tmp_path)
    _buy(store, "a")
    assert store.take_maybe_paid_twice() == 1


def test_many_objects_are_merged_and_a_process_that_wrote_them_finds_its_replies(tmp_path):
    writer, names = replies_in(tmp_path), [f"name-{number}" for number in range(100, 360)]
    for name in names:
        _buy(writer, name)
        writer.flush()
    reader = replies_in(tmp_path)
    assert len(list(tmp_path.glob("*.parquet"))) == 1
    assert [_found(reader, name).raw for name in names] == _rows(tmp_path) == names
    assert _found(writer, names[0]).raw == names[0]


def test_replies_are_written_without_a_flush_of_the_caller(tmp_path):
    _buy(replies_in(tmp_path, flush_seconds=0.01), "x")
    wait_until(lambda: _rows(tmp_path) == ["x"])


def test_forgetting_deletes_the_replies_about_people_and_those_of_a_lost_list(tmp_path):
    config = JobConfig(workspace=str(tmp_path))
    store = open_replies(config, {"model": "m"}, run="r", at_once=2)
    _buy(store, "about ann", user="ann")
    _buy(store, "about bob", user="bob")
    store.flush()
    lost = tmp_path / "replies" / "another-list" / "m" / "1-0.parquet"
    lost.parent.mkdir(parents=True)
    lost.write_bytes(b"")
    people = put_on_list(config, ["ann"])
    assert people.key != PEOPLE.key
    assert forget_replies(config, people) == 1
    assert not lost.exists()
    assert _rows(tmp_path / "replies") == ["about bob"]
    assert b"ann" not in b"".join(f.read_bytes() for f in tmp_path.rglob("*.parquet"))
    assert forget_replies(config, people) == 0


_ASKS = """
import sys
from pathlib import Path
from types import SimpleNamespace
from tests.xrec.text.asked import endpoint_model, prompts, replies_in
from xrec.config import SamplingConfig
from xrec.text import Asker

stub = SimpleNamespace(url=sys.argv[1], model="stub")
replies = replies_in(Path(sys.argv[2]), at_once=4)
Asker(endpoint_model(stub, concurrency=4), SamplingConfig(), replies).ask(prompts(80))
"""


def test_killed_process_buys_no_stored_reply_again_whatever_the_endpoint_does(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.02)
    trouble = {
        0: Answer(status=429, headers={"Retry-After": "0.1"}),
        1: Answer(status=500),
        2: Answer(text="x" * 5000, is_cut=True),
    }

    def behave(asked: Asked) -> Answer:
        number = int(asked.words.split("-")[-1])
        if number % 10 in trouble and not asked.num_before:
            return trouble[number % 10]
        return Answer(text=right(asked).text, delay_seconds=0.05)

    with stub_endpoint(behave) as stub:
        command = [sys.executable, "-c", _ASKS, stub.url, str(tmp_path)]
        process = subprocess.Popen(command)
        wait_until(lambda: len(stub.asked) > 60)
        process.kill()
        process.wait()
        stored, before = len(_rows(tmp_path)), len(stub.asked)
        model, store = endpoint_model(stub, concurrency=4), replies_in(tmp_path, at_once=4)
        replies = Asker(model, SamplingConfig(), store).ask(prompts(80))
    assert [reply.value.word for reply in replies] == [f"word-{n}" for n in range(80)]
    bought = Counter(asked.words for asked in stub.asked[before:])
    assert len(bought) == 80 - stored
    twice = bought.keys() & {asked.words for asked in stub.asked[:before]}
    assert len(twice) <= store.take_maybe_paid_twice()
    assert sum(reply.usage.num_prompt_tokens for reply in replies) == 80 * 11
