"""What became of texts: events over HTTP, in batches into a table, and the rates that they make."""

import asyncio
from typing import Any

import deltalake
import pytest

import xrec
from tests.command_line import xrec as command
from tests.xrec.bulk.conftest import Place
from tests.xrec.serve.local_endpoint import local_endpoint
from tests.xrec.serve.town import ITEMS, USERS, backfill_config, make_backfill
from xrec.backfill import read_explanations
from xrec.bulk import check_output
from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactNotFoundError, StorageError
from xrec.serve import feedback
from xrec.serve.feedback import FOLDER, FeedbackLog, rates
from xrec.serve.problems import ProblemError


def rows_at(place: Place) -> list[dict[str, Any]]:
    uri, options = f"{place.uri}/{FOLDER}", place.location.delta_options()
    return deltalake.DeltaTable(uri, storage_options=options).to_pyarrow_table().to_pylist()


def test_events_are_written_with_what_the_pair_is_answered_with_and_no_user(town, place):
    uri, storage = place.uri, place.storage
    config = backfill_config(town, uri, storage=storage)
    make_backfill(config, [(USERS[0], item) for item in ITEMS])
    known = read_explanations(uri, storage).to_pylist()[0]
    pair = {"user_id": known["user_id"], "item_id": known["item_id"]}
    with local_endpoint(town, explanations=uri, storage=storage) as endpoint:
        sent = [
            ({**pair, "event": "shown", "request_id": "mine"}, 202),
            ({"user_id": "who", "item_id": "what", "event": "wrong"}, 202),
            ({**pair, "event": "hated"}, 422),
            ({**pair, "event": "shown", "text": "x"}, 422),
            ({**pair, "event": "shown", "request_id": "a b"}, 422),
            ({**pair, "event": "shown", "user_id": ""}, 422),
        ]
        for body, status in sent:
            assert endpoint.post("/v1/feedback", body).status_code == status, body
        model = endpoint.model.live.model_fingerprint
        with xrec.Client(endpoint.url) as client:
            client.feedback(USERS[0], known["item_id"], "opened")
    opened, first, second = sorted(rows_at(place), key=lambda row: row["event"])
    assert (opened["event"], opened["version"], opened["item_id"]) == ("opened", 0, pair["item_id"])
    assert opened["user"] == first["user"]
    named = [each["aspect"] for each in known["aspects"] if each["is_named"]]
    assert (first["version"], first["model_fingerprint"], first["aspects"]) == (0, model, named)
    assert (first["item_id"], first["request_id"]) == (known["item_id"], "mine")
    assert (second["version"], second["model_fingerprint"], second["aspects"]) == (None, model, [])
    assert first["user"] != second["user"]
    assert not any(f"'{user}'" in f"{first} {second}" for user in (USERS[0], "who"))
    # The table below does no harm to the one above.
    assert check_output(uri, storage) == []
    assert next(rates(uri, "version", storage))[:2] == ("0", "1")
    feedback.forget(uri, [USERS[0]], storage)
    assert [row["event"] for row in rows_at(place)] == ["wrong"]


EVENTS = [  # user, item, event, version, aspects
    ("ann", "i1", "shown", 1, ["tea", "view"]),
    ("ann", "i1", "shown", 1, ["tea", "view"]),  # it came twice
    ("ann", "i1", "helpful", 1, ["tea", "view"]),
    ("ann", "i2", "opened", 1, ["tea"]),  # who opened it saw it
    ("bob", "i1", "shown", 2, []),
    ("bob", "i2", "wrong", 2, ["view"]),
    ("bob", "i2", "helpful", 2, ["view"]),
]


def log_of(uri: str) -> FeedbackLog:
    log = FeedbackLog(StorageConfig())
    for user, item, event, version, aspects in EVENTS:
        facts = {"version": version, "model_fingerprint": f"m{version}", "aspects": aspects}
        log.take(uri, user, {"item_id": item, "event": event, **facts})
    return log


def test_rates_count_each_text_once_with_intervals_by_users(tmp_path):
    uri = str(tmp_path)
    with pytest.raises(ArtifactNotFoundError, match="no feedback is there"):
        list(rates(uri, "item", StorageConfig()))
    asyncio.run(log_of(uri).write())

    def of(by: Any) -> dict[str, tuple[str, ...]]:
        found = rates(uri, by, StorageConfig())
        return {name: (n, *(each[:5] for each in shares)) for name, n, *shares in found}

    assert of("item") == {
        "i1": ("2", "0.000", "0.500", "0.000"),
        "i2": ("2", "0.500", "0.500", "0.500"),
    }
    assert of("model") == {
        "m1": ("2", "0.500", "0.500", "0.000"),
        "m2": ("2", "0.000", "0.500", "0.500"),
    }
    assert of("aspect") == {
        "tea": ("2", "0.500", "0.500", "0.000"),
        "view": ("2", "0.000", "1.000", "0.500"),
    }
    # One of two users each: nothing is known but that it is a share.
    _, out, _ = command("table", "feedback", uri, "--by", "item")
    assert "0.500 (0.000 to 1.000)" in out


def test_events_wait_while_the_storage_does_not_answer_and_are_refused_when_too_many(
    disk, monkeypatch
):
    uri, log = disk.uri, log_of(disk.uri)
    monkeypatch.setattr(feedback, "MAX_WAITING", len(EVENTS))
    with monkeypatch.context() as patch:

        def fail(*_: Any) -> None:
            raise StorageError("it does not answer")

        patch.setattr(feedback, "append", fail)
        asyncio.run(log.write())
    with pytest.raises(ProblemError) as refused:
        log.take(uri, "cleo", {"item_id": "i1", "event": "shown"})
    assert (refused.value.status_code, refused.value.headers) == (503, {"Retry-After": "2"})

    async def write_some() -> None:
        writing = asyncio.create_task(log.write_on())
        await asyncio.sleep(0)
        writing.cancel()  # what waits is written at the end
        with pytest.raises(asyncio.CancelledError):
            await writing

    asyncio.run(write_some())
    assert len(rows_at(disk)) == len(EVENTS)
    log.take(uri, "cleo", {"item_id": "i1", "event": "shown"})


def test_people_who_are_forgotten_leave_no_event(disk, tmp_path):
    log, uri = FeedbackLog(StorageConfig()), disk.uri
    feedback.forget(uri, ["ann"], StorageConfig())  # there is none yet
    for user in ("ann", "bob"):
        log.take(uri, user, {"item_id": f"of-{user}", "event": "shown"})
        asyncio.run(log.write())
    feedback.forget(uri, ["ann", "who"], StorageConfig())
    assert [row["item_id"] for row in rows_at(disk)] == ["of-bob"]
    assert not any(b"of-ann" in file.read_bytes() for file in tmp_path.rglob("*.parquet"))


def test_small_files_are_put_together(disk):
    for number in range(100):
        log = FeedbackLog(StorageConfig())
        log.take(disk.uri, f"u{number}", {"item_id": "i", "event": "shown"})
        asyncio.run(log.write())
    assert len(deltalake.DeltaTable(f"{disk.uri}/{FOLDER}").file_uris()) == 1
    assert len(rows_at(disk)) == 100
