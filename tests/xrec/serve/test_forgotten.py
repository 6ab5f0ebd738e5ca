"""A forgotten user cannot be told from one whom the dataset never had, whatever a client sends."""

import re
from typing import Any

import pytest
import requests

from tests.xrec.serve.local_endpoint import Endpoint, local_endpoint
from tests.xrec.serve.town import ITEMS, USERS, backfill_config, make_backfill
from xrec import bulk
from xrec.bulk.takedown import forget_on_list
from xrec.storage import open_location
from xrec.storage.forgotten import Forgotten

GONE, STAYS = USERS[-1], USERS[:-1]
STRANGER = f"{GONE[:-1]}x"  # as long, so that lengths do not differ either
TAKEN_DOWN = ITEMS[3]
OWN = {"user_profile": "Likes trains.", "item_profile": "A quiet place."}


def requests_about(user: str) -> list[tuple[str, str, Any]]:
    """Return requests of every route that takes a user, as method, path and body."""
    pairs = [
        {"user_id": user, "item_id": item, **more}
        for item in (ITEMS[0], ITEMS[9], TAKEN_DOWN, "no-such-item")
        for more in ({}, {"fresh": True}, {"profiles": OWN}, {"history": ITEMS[5:8]})
    ]
    pairs.append({"user_id": user, "item_id": ITEMS[0], "history": ["no-such-item"]})
    pairs.append({"user_id": user, "item_id": ITEMS[0], "history": ITEMS[5:7], "profiles": OWN})
    posts = [
        ("POST", f"/v1/explanations{path}", {"pairs": [pair]})
        for path in ("", "/stream")
        for pair in pairs
    ]
    items = (ITEMS[0], TAKEN_DOWN, "no-such-item")
    posts += [("POST", "/v1/evidence", {"user_id": user, "item_id": item}) for item in items]
    paths = [f"/v1/explanations/{user}/{item}" for item in items]
    paths += [f"/v1/users/{user}/recommendations{end}" for end in ("", "?explain=false", "?k=0")]
    paths += [f"/v1/users?prefix={user}", f"/v1/users?after={user}&limit=3&prefix={user[:-1]}"]
    return posts + [("GET", path, None) for path in paths]


def seen(endpoint: Endpoint, user: str, request: tuple[str, str, Any]) -> tuple[Any, ...]:
    """Return what a client can see of the answer, with one name in place of the user's."""
    method, path, body = request
    answer = requests.request(
        method, endpoint.url + path, json=body, headers={"X-Request-ID": "same"}, timeout=120
    )
    headers = {name: value for name, value in answer.headers.items() if name.lower() != "date"}
    # How a text is cut into parts depends on time; the whole answer follows them.
    text = re.sub("event: part\ndata: .*\n\n", "", answer.text)
    return answer.status_code, headers, text.replace(user, "USER")


@pytest.fixture(scope="module", params=["new version", "list only"])
def endpoint(town, tmp_path_factory, request):
    """An endpoint whose dataset still has the user; in one case so does its table."""
    uri = str(tmp_path_factory.mktemp("out") / "explanations")
    pairs = [(user, item) for user in USERS[-3:] for item in ITEMS[:5]]
    make_backfill(backfill_config(town, uri), pairs)
    people = Forgotten(b"key")
    people = Forgotten(b"key", frozenset({people.hash_of(GONE)}))
    if request.param == "new version":
        bulk.take_down(uri, forgotten=people, reason="x")
    bulk.take_down(uri, rows=[{"item_id": TAKEN_DOWN}], reason="x")
    bulk.take_down(uri, rows=[{"user_id": GONE, "item_id": ITEMS[0]}], reason="x")
    if request.param == "list only":
        forget_on_list(open_location(uri), people, "x")
    with local_endpoint(town, explanations=uri) as made:
        yield made


@pytest.mark.parametrize("number", range(len(requests_about(GONE))))
def test_answers_are_those_of_a_stranger(endpoint, number):
    gone = seen(endpoint, GONE, requests_about(GONE)[number])
    assert gone == seen(endpoint, STRANGER, requests_about(STRANGER)[number])


def test_user_leaves_no_gap_in_lists(endpoint):
    listed = endpoint.get("/v1/users?limit=4").json()
    assert listed["users"] == STAYS[:4]
    for limit in (len(STAYS) - 4, 100):  # the user would be the next one
        rest = endpoint.get("/v1/users", params={"after": listed["next"], "limit": limit})
        assert rest.json() == {"users": STAYS[4:], "next": None}


def test_user_who_stays_is_answered(endpoint):
    path = f"/v1/explanations/{USERS[-2]}/{ITEMS[0]}"
    assert endpoint.get(path).json()["source"] == "backfill"
    taken_down = endpoint.get(f"/v1/explanations/{USERS[-2]}/{TAKEN_DOWN}")
    assert taken_down.status_code == 410
