"""Attacks: hostile requests, requests drawn from the OpenAPI description, and forgotten users.

The report (`--junitxml FILE`) has the longest time for which a request blocks the event loop.
"""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.xrec.serve.local_endpoint import (
    ITEMS,
    USERS,
    Endpoint,
    backfill_config,
    local_endpoint,
    make_backfill,
)
from xrec import bulk
from xrec.bulk.takedown import forget_on_list
from xrec.serve.api import make_api
from xrec.serve.artifacts import settle
from xrec.serve.read_through import ReadThrough
from xrec.storage import Forgotten, open_location

PAIR = {"user_id": USERS[0], "item_id": ITEMS[0]}
ROUTES: list[tuple[str, str, Any]] = [
    ("POST", "/v1/explanations", {"pairs": [PAIR]}),
    ("POST", "/v1/explanations/stream", {"pairs": [PAIR]}),
    ("GET", f"/v1/explanations/{USERS[0]}/{ITEMS[0]}", None),
    ("GET", f"/v1/users/{USERS[0]}/recommendations?explain=false", None),
    ("POST", "/v1/recommendations", {"history": ITEMS[:2]}),
    ("GET", "/v1/items", None),
    ("POST", "/v1/evidence", PAIR),
    ("GET", "/v1/users", None),
]
POSTS = [(path, body) for method, path, body in ROUTES if method == "POST"]
MAX_BYTES = 256 * 1024
TEXTS = ["a.", "1.", "\u2026 ", "a ", "A. ", ".\n", "\U0001f1e9", "\u0e01", "&a", "Dr. 3", "tea, "]
IDS = ["\x00", "\ud800", "..", "a/b", "\u202e", "x" * 256, "\U0001f600" * 256, "' OR 1=1 --", "%00"]


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


@pytest.mark.parametrize("headers", [{}, bearer("wrong"), {"X-API-Key": ""}, {"Cookie": "key"}])
def test_no_route_answers_without_a_key(guarded, headers):
    for method, path, body in [*ROUTES, ("GET", "/docs", None)]:
        for verb in {method, "HEAD", "OPTIONS", "PUT", "DELETE"}:
            url = guarded.url + path
            got = requests.request(verb, url, json=body, headers=headers, timeout=60)
            assert (got.status_code, got.headers["WWW-Authenticate"]) == (401, "Bearer")
    for path in ("/healthz", "/", "/page/page.js", "/openapi.json"):
        assert guarded.get(path, headers=headers).status_code == 200


def hostile_bodies() -> list[bytes]:
    """Return bodies up to the size limit; most are JSON."""
    texts = [(text * 8000)[:8000] for text in TEXTS]
    pairs = [
        *(
            {"profiles": {"item_profile": text, "user_profile": text, "item_title": text[:size]}}
            for text in texts
            for size in (1, 256)
        ),
        *({name: each} for name in PAIR for each in IDS),
        *({"user_id": "new", "history": history} for history in (IDS * 20, ITEMS * 20)),
        {"profiles": {str(number): "" for number in range(20_000)}},
        *({"history": history} for history in ([1.5] * 50_000, ["x" * 257] * 900)),
    ]
    lists = [[PAIR] * 65, [{}] * 60_000, [[]] * 80_000, *([{**PAIR, **each}] for each in pairs)]
    values = [{"pairs": each, **more} for each in lists for more in ({}, PAIR)]
    bodies = [json.dumps(each).encode() for each in (*values, *({**PAIR, **p} for p in pairs))]
    for text in texts:  # as many pairs as fit
        pair = json.dumps({**PAIR, "profiles": {"item_profile": text}}, ensure_ascii=False).encode()
        many = [pair] * min(64, MAX_BYTES // len(pair) - 1)
        bodies.append(b'{"pairs": [' + b",".join(many) + b"]}")
    bodies += [
        b'{"pairs": ' + b"[" * 200_000,
        b"[" * 120_000 + b"]" * 120_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"pairs": [], "fresh": -1e400}',
        b'{"pairs": [], "fresh": ' + b"9" * 200_000 + b"}",
        b'{"pairs": [], "fresh": 0.' + b"1" * 200_000 + b"}",
        b'{"user_id": "' + b"\\ud83d" * 40_000 + b'", "item_id": "i"}',
        b'{"pairs": "' + b"\xff" * 200_000 + b'"}',
        b'{"' + b'a":1,"' * 30_000 + b'a":1}',
        b"\x00" * MAX_BYTES,
    ]
    return [body for body in bodies if len(body) <= MAX_BYTES]


HEADERS: list[dict[str, bytes | str]] = [
    {"Content-Type": "application/json; charset=utf-7"},
    {"Content-Encoding": "gzip"},
    {"X-Request-ID": "x" * 5000},
    {"X-Request-Timeout-Seconds": "0"},
    {"Expect": "200-ok"},
    {"Content-Type": "multipart/form-data; boundary=" + "-" * 5000},
    {"Cookie": "a=" * 3000},
]
PATHS = [
    "/v1/explanations/%00/%ff",
    "/v1/explanations/" + "%F0%9F%98%80" * 300 + "/x",
    "/v1/users/" + "/" * 3000 + "recommendations",
    "/v1/users?prefix=%ff&limit=1e400",
    "/v1/users?limit=" + "9" * 5000,
    "/v1/users?after=%00&prefix=%ED%A0%80",
    "/v1/items?text=(a%2B)%2B%24%00%ED%A0%80",
    f"/v1/users/{USERS[0]}/recommendations?k=" + "9" * 4000,
    "/page/..%2f..%2fapp.py",
    "/page/" + "a/" * 2000 + "%00",
]


@contextmanager
def held_seconds(loop: asyncio.AbstractEventLoop) -> Iterator[list[float]]:
    """Record the CPU time of each loop iteration, including garbage collections."""
    held = [0.0]

    async def beat() -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.005)
            held.append(time.thread_time() - before)

    settle()
    beating = asyncio.run_coroutine_threadsafe(beat(), loop)
    yield held
    beating.cancel()


@pytest.mark.slow
def test_hostile_requests_get_no_server_error_and_delay_nobody(guarded, record_property):
    wrong = []
    known = bearer("root")
    json_type = {"Content-Type": "application/json"}
    sent: list[tuple[str, str, bytes, dict[str, Any]]] = [
        *(("POST", path, body, json_type) for path, _ in POSTS for body in hostile_bodies()),
        *(("GET", path, b"", {}) for path in PATHS),
        *(
            ("POST", path, json.dumps(body).encode(), {**json_type, **headers})
            for path, body in POSTS
            for headers in HEADERS
        ),
    ]
    with held_seconds(guarded.loop) as held, requests.Session() as session:
        for method, path, body, headers in sent:
            got = session.request(
                method, guarded.url + path, data=body, headers={**known, **headers}, timeout=120
            )
            if got.status_code >= 500 or '"status": 500' in got.text or "/bug" in got.text:
                what = f"{method} {path[:60]} {body[:80]!r} {headers}"
                wrong.append((got.status_code, what, got.text[:200]))
        assert session.get(f"{guarded.url}/v1/items", headers=known, timeout=60).ok
    assert wrong == []
    record_property("held_seconds", max(held))
    assert max(held) < 0.05


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
NOTHING = ReadThrough.__new__(ReadThrough)
OPERATIONS = [
    (path, method)
    for path, methods in make_api(lambda: NOTHING).openapi()["paths"].items()
    for method in methods
]


@pytest.mark.parametrize(
    "max_examples", [8, pytest.param(300, marks=pytest.mark.slow)], ids=["few", "many"]
)
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_answer_is_in_the_openapi_description(endpoint, path, method, max_examples):
    schema = schemathesis.openapi.from_url(f"{endpoint.url}/openapi.json")

    @hypothesis.settings(
        max_examples=max_examples, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(case=schema[path][method.upper()].as_strategy())
    def ask(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS, timeout=60)

    ask()


GONE, STAYS = USERS[-1], USERS[:-1]
STRANGER = f"{GONE[:-1]}x"  # as long, so that lengths do not differ either
TAKEN_DOWN = ITEMS[3]
OWN = {"user_profile": "Likes trains.", "item_profile": "A quiet place."}


def requests_about(user: str) -> list[tuple[str, str, Any]]:
    """Return requests of every route that takes a user, as method, path and body."""
    items = (ITEMS[0], ITEMS[9], TAKEN_DOWN, "no-such-item")
    more = ({}, {"fresh": True}, {"profiles": OWN}, {"history": ITEMS[5:8]})
    pairs = [{"user_id": user, "item_id": item, **each} for item in items for each in more]
    pairs += [{**pairs[0], "history": ["no-such-item"]}, {**pairs[2], "history": ITEMS[5:7]}]
    of_pairs = [
        ("POST", f"/v1/explanations{path}", {"pairs": [pair]})
        for path in ("", "/stream")
        for pair in pairs
    ]
    evidence = [("POST", "/v1/evidence", {"user_id": user, "item_id": item}) for item in items]
    paths = [f"/v1/explanations/{user}/{item}" for item in items]
    paths += [f"/v1/users/{user}/recommendations{end}" for end in ("", "?explain=false", "?k=0")]
    paths += [f"/v1/users?prefix={user}", f"/v1/users?after={user}&limit=3&prefix={user[:-1]}"]
    return [*of_pairs, *evidence, *(("GET", path, None) for path in paths)]


def seen(endpoint: Endpoint, user: str, request: tuple[str, str, Any]) -> tuple[Any, ...]:
    """Return what a client sees of the answer, with a fixed name in place of the user's."""
    method, path, body = request
    answer = requests.request(
        method, endpoint.url + path, json=body, headers={"X-Request-ID": "same"}, timeout=120
    )
    headers = {name: value for name, value in answer.headers.items() if name.lower() != "date"}
    # How a text is cut into parts depends on time; the whole answer follows them.
    text = re.sub("event: part\ndata: .*\n\n", "", answer.text)
    return answer.status_code, headers, text.replace(user, "USER")


@pytest.fixture(scope="module", params=["new version", "list only"])
def forgetful(town, endpoint, tmp_path_factory, request):
    """An endpoint whose dataset, and in one case table, still contains the forgotten user."""
    uri = str(tmp_path_factory.mktemp("out") / "explanations")
    pairs = [(user, item) for user in USERS[-3:] for item in ITEMS[:5]]
    make_backfill(backfill_config(town, uri), pairs)
    people = Forgotten(b"key", frozenset({Forgotten(b"key").hash_of(GONE)}))
    if request.param == "new version":
        bulk.take_down(uri, forgotten=people, reason="x")
    bulk.take_down(uri, rows=[{"item_id": TAKEN_DOWN}], reason="x")
    bulk.take_down(uri, rows=[{"user_id": GONE, "item_id": ITEMS[0]}], reason="x")
    if request.param == "list only":
        forget_on_list(open_location(uri), people, "x")
    with local_endpoint(town, endpoint.model.live, explanations=uri) as made:
        yield made


@pytest.mark.parametrize("number", range(len(requests_about(GONE))))
def test_forgotten_user_gets_the_answers_of_a_stranger(forgetful, number):
    gone = seen(forgetful, GONE, requests_about(GONE)[number])
    assert gone == seen(forgetful, STRANGER, requests_about(STRANGER)[number])


def test_forgotten_user_leaves_no_gap_and_others_are_still_answered(forgetful):
    listed = forgetful.get("/v1/users?limit=4").json()
    assert listed["users"] == STAYS[:4]
    for limit in (len(STAYS) - 4, 100):  # the user would be the next one
        rest = forgetful.get("/v1/users", params={"after": listed["next"], "limit": limit})
        assert rest.json() == {"users": STAYS[4:], "next": None}
    path = f"/v1/explanations/{USERS[-2]}"
    assert forgetful.get(f"{path}/{ITEMS[0]}").json()["source"] == "backfill"
    assert forgetful.get(f"{path}/{TAKEN_DOWN}").status_code == 410
